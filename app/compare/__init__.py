"""The page that compares two selections of tokens."""
