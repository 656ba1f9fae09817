"""Decoding as one step that is repeated: in fixed memory, on CUDA as a graph."""
