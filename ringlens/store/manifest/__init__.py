"""The list of committed files, and the journals that record its changes."""
