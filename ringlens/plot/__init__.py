"""Figures of what is recorded, for notebooks and for the dashboard."""
