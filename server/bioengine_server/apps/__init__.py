"""Apps: Triton models of the public server that are not from bioimage.io, installed into the folder of the admin's own models."""
