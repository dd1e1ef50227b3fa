"""Whether CUDA starts in a confined process.

Its driver is NVIDIA's own, and what it needs at its start changes from one version to the next: 580 listens on a socket and
names its threads by files in /proc. So this is tried before Triton starts. A part of the confinement in which CUDA does not start
is left out, with BIOENGINE_CONFINE=auto.

    python -m bioengine_runner.confinement.on_card

prints what CUDA says in this process: 0, or the number of its error.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from bioengine_runner.confinement import Protection, confine
from bioengine_runner.confinement.landlock import Access
from bioengine_runner.gpu import start_cuda

_PATIENCE = 60.0  # seconds; a driver that has just been installed is read from the disk
_UNKNOWN = 999  # CUDA_ERROR_UNKNOWN
_FULL = 2  # CUDA_ERROR_OUT_OF_MEMORY: other programs use the card; that is for each model to find out


def fitting(
    supported: Protection, accesses: Sequence[Access], tcp_ports: Sequence[int], variables: Mapping[str, str]
) -> tuple[Protection, int]:
    """The strongest confinement in which CUDA starts, and CUDA's error in the whole one; 0 if it starts there.

    Where CUDA starts in none, the confinement is not what prevents it, and the whole one is right.

    Args:
        supported: what the kernel supports.
        accesses, tcp_ports: as for `confine`.
        variables: the environment of the confined process.
    """
    whole = _error(supported, accesses, tcp_ports, variables)
    if whole == 0:
        return supported, 0
    for less in _weaker(supported):
        if _error(less, accesses, tcp_ports, variables) == 0:
            return less, whole
    return supported, 0


def _weaker(supported: Protection) -> Iterator[Protection]:
    if supported.landlock and supported.seccomp:
        yield Protection(supported.landlock, False)
        yield Protection(0, True)
    yield Protection(0, False)


def _error(parts: Protection, accesses: Sequence[Access], tcp_ports: Sequence[int], variables: Mapping[str, str]) -> int:
    """CUDA's error in a process that is confined like this."""
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            env=dict(variables),
            preexec_fn=functools.partial(confine, accesses, tcp_ports, parts),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        error = int(asked.stdout.strip().rpartition("\n")[2])
    except (OSError, ValueError, subprocess.SubprocessError):
        return _UNKNOWN
    return 0 if error == _FULL else error


if __name__ == "__main__":
    print(start_cuda())
