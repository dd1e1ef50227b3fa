"""Confine this process according to the settings, before it becomes Triton or the test of a package."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from bioengine_runner.checks import StartError
from bioengine_runner.confinement import Protection, available, confine, on_card
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
    def __init__(self, lacks: list[str], cuda_error: int = 0) -> None:
        """`cuda_error`: CUDA's error in a stronger confinement; 0 if it is the kernel that has none."""
        if cuda_error:
            reason = f"NVIDIA's driver does not start with more (CUDA's error {cuda_error})"
            advice = "Have models compute on the CPU (BIOENGINE_ACCELERATOR=cpu)"
        else:
            reason = "its kernel has no more"
            advice = "Use a newer kernel (Linux 6.12), allow Landlock and seccomp where a container's profile forbids them"
        super().__init__(
            f"BIOENGINE_CONFINE=require, but on this machine models can still {'; '.join(lacks)}: {reason}. {advice}, "
            "or start with BIOENGINE_CONFINE=auto, which starts without what is missing."
        )


def confine_as_set(
    wish: str, accesses: Iterable[Access], tcp_ports: Iterable[int] = (), cuda_with: Mapping[str, str] | None = None
) -> None:
    """Confine this thread and every program that it becomes, and print how. Raises NotConfined.

    Args:
        wish: the setting BIOENGINE_CONFINE: `auto`, `require` or `off`.
        accesses, tcp_ports: as for `confine`.
        cuda_with: the environment variables with which CUDA will start, as it does in Triton itself; None if it does not.
    """
    if wish == "off":
        print("Not confined: models can do what the user who started the server can (BIOENGINE_CONFINE=off).", flush=True)
        return
    # `gpus` uses NVIDIA's driver. At the first use after the machine's start, the driver makes its device files, by a set-user-id
    # program: that has to happen before `usable` looks which of them may be opened.
    has_card = cuda_with is not None and gpus() > 0
    allowed, ports = tuple(accesses), tuple(tcp_ports)
    parts, cuda_error = usable(allowed, ports, cuda_with if has_card else None)
    if wish == "require" and parts.lacks:
        raise NotConfined(parts.lacks, cuda_error)
    confine(allowed, ports, parts)
    print(_told(parts, cuda_error), flush=True)


def usable(accesses: Sequence[Access], tcp_ports: Sequence[int], cuda_with: Mapping[str, str] | None) -> tuple[Protection, int]:
    """Which parts of the confinement to use: all that the kernel supports, but without those in which CUDA does not start.

    The second value is CUDA's error with all of them; 0 if there is none. The arguments are those of `confine_as_set`, but
    `cuda_with` is None also where there is no card.
    """
    supported = available()
    return (supported, 0) if cuda_with is None else on_card.fitting(supported, accesses, tcp_ports, cuda_with)


def _told(parts: Protection, cuda_error: int) -> str:
    still = f" Models can still {'; '.join(parts.lacks)}." if parts.lacks else ""
    why = f" NVIDIA's driver does not start with more (CUDA's error {cuda_error})." if cuda_error else ""
    return f"Confined by {parts}.{still}{why}"


def inherited_variables(accelerator: str) -> dict[str, str]:
    """The environment of a confined process. It is not passed on as a whole, because a user's environment may contain secrets.

    `accelerator`: `cpu`, `cuda` or `auto`. With `cpu`, no card is seen, so that nothing of it is used: Triton would take 0.6 GB.
    """
    inherited = {key: value for key, value in os.environ.items() if key in _INHERITED or key.startswith(_INHERITED_PREFIXES)}
    # Text is UTF-8 for models, whatever locale the server was started with.
    # ONNX Runtime reports to its maker otherwise (see `bioengine_runner`); an admin's own model imports it without this package.
    always = {"PYTHONUTF8": "1", "ORT_DISABLE_TELEMETRY": "1", **({"CUDA_VISIBLE_DEVICES": ""} if accelerator == "cpu" else {})}
    return {"LC_ALL": "C.UTF-8", **inherited, **always}
