"""Writes a store: transactions that are there wholly or not at all."""
