"""Whether a model fits on a machine, how it is laid over the GPUs, and the command that runs it."""
