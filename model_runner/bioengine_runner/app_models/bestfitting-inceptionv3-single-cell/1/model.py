"""The app's code is in `bioengine_runner.apps.classifier`."""

from bioengine_runner.apps.classifier import ClassifierApp as TritonPythonModel

__all__ = ["TritonPythonModel"]
