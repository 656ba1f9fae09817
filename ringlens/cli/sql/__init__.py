"""``ringlens sql``: the command, the prompt, its completion, and the formats of rows."""
