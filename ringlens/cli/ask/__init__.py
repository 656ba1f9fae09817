"""``ringlens ask`` and ``ringlens chat``: a model thinks aloud in the terminal, and is recorded."""
