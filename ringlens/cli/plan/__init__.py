"""``ringlens plan``: the command, and its report as tables and as JSON."""
