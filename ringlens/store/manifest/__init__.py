"""The list of committed files, and the journal by which it changes."""
