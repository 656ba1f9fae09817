"""Encodes records as rows of tables."""
