"""What the records say: reads the store, never the model."""
