"""How the DQN learns: by whole instructions where an episode is one answer, else by transitions."""
