"""Figures of how much each expert is used, how evenly, and why."""
