"""Writes a store in atomic transactions."""
