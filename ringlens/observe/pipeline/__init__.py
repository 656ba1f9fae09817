"""From the model's forward to a commit: blocks of tensors, buffers of traces, a writing thread."""
