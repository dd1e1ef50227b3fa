"""The app's code is in `bioengine_runner.apps.cellpose`."""

from bioengine_runner.apps.cellpose import CellposeApp as TritonPythonModel

__all__ = ["TritonPythonModel"]
