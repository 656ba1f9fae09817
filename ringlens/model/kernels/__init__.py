"""What the model computes by kernels of our own."""
