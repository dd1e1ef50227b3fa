"""bioengine-runner: the code that runs inside Triton: the model runner, and loading and inference of bioimage.io models."""
