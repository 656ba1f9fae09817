"""Thoughts that a serving engine wrote: read from its answers, live or saved, and stored."""
