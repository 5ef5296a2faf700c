"""What is learned from what people said: who can be trusted, what a pair earns, and where nothing is known."""
