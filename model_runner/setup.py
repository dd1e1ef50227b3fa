"""The parts of the model runner's distribution that come from elsewhere in the checkout; the rest is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "deploy"))

from distribution import contract, requirements, version


def extra(accelerator: str) -> list[str]:
    return requirements(*(f"model_runner/requirements-{name}.txt" for name in (accelerator, "torch")))


setup(
    version=version(),
    install_requires=[contract(), *requirements("model_runner/requirements.txt")],
    extras_require={accelerator: extra(accelerator) for accelerator in ("cpu", "cuda")},
)
