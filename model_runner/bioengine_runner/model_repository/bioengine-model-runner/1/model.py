"""The Triton model that clients call; its code is in `bioengine_runner.runner_model`."""

from bioengine_contract.lean_import import lean_import

with lean_import():
    from bioengine_runner.runner_model import RunnerModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
