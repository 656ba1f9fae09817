"""What mattered in a thought: what probes measured of its steps, and whether it is real."""
