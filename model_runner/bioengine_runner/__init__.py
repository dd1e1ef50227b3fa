"""bioengine-runner: the code that runs inside Triton: the model runner, and loading and inference of bioimage.io models."""

import os

# ONNX Runtime 1.32 reports to its maker over the internet, from a thread of its own some 9 s after it was imported. Nothing here
# may do that; and in the sandbox of a conversion, its socket would end the step. It reads this when it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
