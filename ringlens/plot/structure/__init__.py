"""Figures of pairs of experts, and of what predicts a choice."""
