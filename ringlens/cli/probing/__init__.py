"""Commands that probe thoughts."""
