"""RLOO (Ahmadian et al. 2024): leave-one-out advantages, here with PPO's clip. KL to a reference in the reward.

No critic. See docs/explanation/ppo.md.
"""

from instructrec_rl.algorithms.language.learn import learn as learn
from instructrec_rl.policies.language.policy import load as load
