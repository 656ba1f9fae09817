"""The page of two traces of a problem, step beside step."""
