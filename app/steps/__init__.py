"""What pages read of the steps of a trace."""
