"""Untrusted SQL, in a process that can reach nothing but the store."""
