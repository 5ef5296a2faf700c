"""Results as numbers, pages and files: one run, or several side by side, with their statistics."""
