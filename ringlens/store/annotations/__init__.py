"""What people say of traces, steps and experts: checked, and added to a store."""
