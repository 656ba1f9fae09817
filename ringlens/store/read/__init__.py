"""Reads a store: SQL over its tables, and one trace at a time."""
