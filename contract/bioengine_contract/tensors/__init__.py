"""From a client's arrays to a model's tensors and back."""
