"""The command line: one file a command, each a row of the table in `registry`."""
