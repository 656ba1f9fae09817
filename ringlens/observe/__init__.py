"""Live tensors to records."""
