"""Heads over the steps of a thought."""
