"""Whether two selections, two phases or two captures differ."""
