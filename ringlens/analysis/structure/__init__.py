"""Which experts go together, and along which paths."""
