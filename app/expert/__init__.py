"""The page of one expert: its card."""
