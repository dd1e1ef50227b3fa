"""Confine this process according to the settings, before it becomes Triton or the test of a package."""

from __future__ import annotations

import os
from collections.abc import Iterable

from bioengine_runner.checks import StartError
from bioengine_runner.confinement import available, confine
from bioengine_runner.confinement.landlock import Access
from bioengine_runner.gpu import gpus

# The environment variables that Triton's processes inherit: how to find programs and libraries, language and time, and how to
# compute.
_INHERITED = (
    "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "LOGNAME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "TZ", "USER",
)  # fmt: skip
_INHERITED_PREFIXES = (
    "LC_", "CUDA_", "NVIDIA_", "CUBLAS_", "CUDNN_", "NCCL_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ORT_", "PYTORCH_",
    "TORCH_", "NUMEXPR_", "NUMBA_", "MALLOC_", "GLIBC_",
)  # fmt: skip


class NotConfined(StartError):
    def __init__(self, lacks: list[str]) -> None:
        super().__init__(
            f"BIOENGINE_CONFINE=require, but with this machine's kernel models can still {'; '.join(lacks)}. Use a newer kernel "
            "(Linux 6.12), allow Landlock and seccomp where a container's profile forbids them, or start with "
            "BIOENGINE_CONFINE=auto, which starts without what is missing."
        )


def confine_as_set(wish: str, accelerator: str, accesses: Iterable[Access], tcp_ports: Iterable[int] = ()) -> None:
    """Confine this thread and every program that it becomes, and print how. Raises NotConfined.

    Args:
        wish: the setting BIOENGINE_CONFINE: `auto`, `require` or `off`.
        accelerator: `cpu`, `cuda` or `auto`.
        accesses, tcp_ports: as for `confine`.
    """
    if wish == "off":
        print("Not confined: models can do what the user who started the server can (BIOENGINE_CONFINE=off).", flush=True)
        return
    lacks = available().lacks
    if wish == "require" and lacks:
        raise NotConfined(lacks)
    if accelerator != "cpu":
        # At its first use after the machine's start, NVIDIA's driver makes its device files, with a set-user-id program.
        gpus()
    protection = confine(accesses, tcp_ports)
    print(f"Confined by {protection}." + (f" Models can still {'; '.join(lacks)}." if lacks else ""), flush=True)


def inherited_variables() -> dict[str, str]:
    """The environment of a confined process. It is not passed on as a whole, because a user's environment may contain secrets."""
    inherited = {key: value for key, value in os.environ.items() if key in _INHERITED or key.startswith(_INHERITED_PREFIXES)}
    # Text is UTF-8 for models, whatever locale the server was started with.
    # ONNX Runtime reports to its maker otherwise (see `bioengine_runner`); an admin's own model imports it without this package.
    return {"LC_ALL": "C.UTF-8", **inherited, "PYTHONUTF8": "1", "ORT_DISABLE_TELEMETRY": "1"}
