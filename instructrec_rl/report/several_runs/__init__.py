"""The report of a bench, or of runs that were set side by side."""
