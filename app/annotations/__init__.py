"""What people say of traces, steps and experts: shown and written on every page."""
