"""How analyses read more routing than fits at once: in parts, here or on a cluster."""
