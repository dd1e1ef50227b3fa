"""bioengine-runner: what runs inside Triton: the router, loading and inference of bioimage.io models."""
