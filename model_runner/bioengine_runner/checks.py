"""Checks before Triton starts. Each problem is one line that says what to do about it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy

from bioengine_runner.gpu import gpus
from bioengine_runner.settings import Settings

# Earlier versions of Triton silently corrupt tensors with NumPy 2 (a known issue of 2.51 and 2.52); NumPy 1 works with all.
_FIRST_WITH_NUMPY_2 = (2, 53)

_SHARED_MEMORY = Path("/dev/shm")
_MIN_SHARED_MEMORY = 256 << 20  # bytes: Triton's own pools, and a usual image that is passed between two processes


class StartError(Exception):
    """Triton cannot be started."""


class SecretMissing(StartError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Triton's secret is missing: {reason}. The server creates it when it first starts: check that the server is "
            "running, and that both have the same file."
        )


class NumpyTooNew(StartError):
    def __init__(self, version: str) -> None:
        super().__init__(
            f"The model runner's environment has NumPy {version}, but this Triton needs NumPy 1: with NumPy 2 it silently "
            "corrupts tensors. Install the packages of model_runner/requirements-cpu.lock."
        )


class NoTriton(StartError):
    def __init__(self, tritonserver: Path) -> None:
        super().__init__(
            f"There is no Triton at {tritonserver}. Build the image from a base image that contains it (TRITON_IMAGE), or set "
            "BIOENGINE_TRITONSERVER and BIOENGINE_BACKENDS to where it is."
        )


class GpuMissing(StartError):
    def __init__(self, setting: str) -> None:
        super().__init__(
            f"{setting} requires a GPU, but NVIDIA's driver offers none to this container. Check that `nvidia-smi` lists one on "
            "the host and that the NVIDIA Container Toolkit is installed, or remove the setting to compute on the CPU."
        )


class SharedMemoryTooSmall(StartError):
    def __init__(self, size: int) -> None:
        super().__init__(
            f"/dev/shm has {size >> 20} MB, but Triton passes images through it and needs at least {_MIN_SHARED_MEMORY >> 20} "
            "MB, and four times the size of the largest image. Set BIOENGINE_SHM_SIZE, for example to 2g."
        )


class StoreMissing(StartError):
    def __init__(self, store: Path) -> None:
        super().__init__(f"The model store {store} cannot be read. Mount the server's volume into this container, read-only.")


def check_container(settings: Settings) -> None:
    """Check everything that Triton's container needs. Raises StartError."""
    if not os.access(settings.tritonserver, os.X_OK):
        raise NoTriton(settings.tritonserver)
    check_numpy(settings.tritonserver)
    if settings.accelerator == "cuda" or (settings.runtime == "nvidia" and settings.accelerator == "auto"):
        if not gpus():
            raise GpuMissing("BIOENGINE_ACCELERATOR=cuda" if settings.accelerator == "cuda" else "BIOENGINE_RUNTIME=nvidia")
    memory = os.statvfs(_SHARED_MEMORY)
    if memory.f_blocks * memory.f_frsize < _MIN_SHARED_MEMORY:
        raise SharedMemoryTooSmall(memory.f_blocks * memory.f_frsize)
    if not os.access(settings.store, os.R_OK | os.X_OK):
        raise StoreMissing(settings.store)


def check_numpy(tritonserver: Path) -> None:
    """Check that this Triton works with the installed NumPy. Raises NumpyTooNew."""
    if int(numpy.__version__.split(".")[0]) >= 2 and triton_version(tritonserver) < _FIRST_WITH_NUMPY_2:
        raise NumpyTooNew(numpy.__version__)


def triton_version(tritonserver: Path) -> tuple[int, int]:
    """Triton's major and minor version, from a file beside its programs; (0, 0) if there is no such file, as in the wheel."""
    try:
        found = re.match(r"(\d+)\.(\d+)", (tritonserver.resolve().parents[1] / "TRITON_VERSION").read_text())
    except OSError:
        found = None
    return (int(found[1]), int(found[2])) if found else (0, 0)
