"""What answers an instruction: the contracts of a policy, and how one is saved and loaded."""
