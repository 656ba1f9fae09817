"""The command line: one file a command, each a row of the registry in `main`."""
