"""bioengine-runner: what runs inside Triton: the model runner, loading and inference of bioimage.io models."""
