"""Commits: stages, publishes and registers files, all of a commit or none."""
