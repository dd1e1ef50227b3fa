"""The conversion of a package's weights to ONNX, so that a package with code of its own is served without running that code.

The server converts a package once, when it is imported or downloaded (`bioengine_server.store.conversion`). It chooses random
inputs and starts two processes, one after the other, each confined as `start` says:

    package, random inputs -> its own weights, its code -> converted.onnx; outputs of the model, and of its trace if it has one
    package, random inputs, converted.onnx -> ONNX Runtime -> outputs; no code of the package

and compares the outputs itself. `__main__` names the steps: a further format of weights is a further one.
"""
