"""ring-nano and the bundled problem sets."""
