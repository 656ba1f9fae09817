"""The page of one trace: the thought as text, and what the model did at each token."""
