"""Bioimage.io models as Triton models: made, loaded, healed."""
