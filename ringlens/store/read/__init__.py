"""Reads a store: SQL over its tables, and single traces as arrays."""
