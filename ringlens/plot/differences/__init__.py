"""Figures of contrasts, associations, shifts and agreement."""
