"""The model store, as the runner reads it."""
