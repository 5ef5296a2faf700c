"""One run, or a sweep of runs, from its options to its folder."""
