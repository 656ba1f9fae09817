"""Which tokens an analysis is about, and how often they chose each expert."""
