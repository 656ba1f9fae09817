"""What probes on a chain of thought share: the steps of a trace, its cache, and one runner."""
