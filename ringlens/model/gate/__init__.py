"""The gate before loading: what a checkpoint's files must say before anything is opened."""
