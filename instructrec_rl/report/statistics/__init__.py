"""Intervals, comparisons and curves over seeds; numbers in, numbers out."""
