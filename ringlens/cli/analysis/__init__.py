"""Commands that answer questions about experts."""
