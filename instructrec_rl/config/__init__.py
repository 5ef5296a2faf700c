"""A run's options: typed (schema), composed from the command line (compose, overrides), and named (experiments)."""
