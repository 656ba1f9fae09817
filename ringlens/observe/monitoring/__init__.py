"""Monitors: linear probes that score a model while it thinks."""
