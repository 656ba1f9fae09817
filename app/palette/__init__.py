"""The command palette: going anywhere by typing."""
