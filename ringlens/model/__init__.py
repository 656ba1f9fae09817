"""Ring on transformers 5. Knows nothing of observing."""
