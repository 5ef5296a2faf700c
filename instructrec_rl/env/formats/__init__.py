"""The forms that an environment's data may have: one reader each."""
