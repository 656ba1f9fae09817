"""Experiments on a lens and a store."""
