"""The Triton model that clients name; all of it is in `bioengine_runner.router`."""

from bioengine_runner.router import Router as TritonPythonModel  # noqa: F401
