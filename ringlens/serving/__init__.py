"""Import of what model servers answered, live or from saved responses."""
