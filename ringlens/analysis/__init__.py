"""Frames in, frames out: reads the store, never the model."""
