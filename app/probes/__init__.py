"""The page of what probes have stored."""
