"""The page of the attention heads of a trace."""
