"""The arithmetic of instruments, in torch and in Triton side by side."""
