"""Doors for people who work on a model by hand: caches, hooks and nnsight's tracing."""
