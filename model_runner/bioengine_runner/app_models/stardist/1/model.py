"""The app's code is in `bioengine_runner.apps.stardist`."""

from bioengine_runner.apps.stardist import StarDistApp as TritonPythonModel

__all__ = ["TritonPythonModel"]
