"""What a single expert is for."""
