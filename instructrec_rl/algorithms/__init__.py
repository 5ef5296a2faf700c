"""What learns: one file an algorithm, found by its name."""
