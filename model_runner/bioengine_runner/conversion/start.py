"""Start a step of a conversion in its sandbox.

    python -I -m bioengine_runner.conversion.start STEP PACKAGE GIVEN OUTPUT MEMORY SECONDS

It can read its environment, the folders PACKAGE and GIVEN, and write the folder OUTPUT; all of Landlock and seccomp that Triton's
processes have (`bioengine_runner.confinement`) is required here. Memory in bytes, computing time in seconds for each processor.
Then it becomes `bioengine_runner.conversion`, with an environment of its own.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from bioengine_runner.confinement import available, confine
from bioengine_runner.confinement.kernel import die_with_parent
from bioengine_runner.confinement.reach import of_conversion
from bioengine_runner.conversion.report import Outcome, Report

_MAX_FILE = 4 << 30  # bytes; an ONNX file has at most 2 GB
_MAX_OPEN_FILES = 256
_MAX_THREADS = 1024  # of this user; the kernel does not apply it to root
# Libraries, those of CUDA among them, are mapped, and count here without taking memory.
_MAPPED = 48 << 30  # bytes
_NICE = 10  # the server and models that run come first
# Keras 2, as published models need it; sums in the usual order; no remarks on the processor in place of a reason. An optimizer
# of tf2onnx 1.17 that fails ends the conversion: to go on after it, tf2onnx copies the graph for each of its many steps, and
# a network with 31 million weights then needs more than 10 GB.
_OF_TENSORFLOW = {
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF2ONNX_CATCH_ERRORS": "FALSE",
}
_INHERITED = ("LANG", "LD_LIBRARY_PATH", "TZ")


def main() -> None:
    step, package, given, output, memory, seconds = sys.argv[1:]
    protection = available()
    if not protection.landlock or not protection.seccomp:
        Report(Outcome.NO_SANDBOX, str(protection)).write(Path(output))
        sys.exit(1)
    die_with_parent()
    os.umask(0o077)
    os.nice(_NICE)
    os.chdir(output)
    _limit(int(memory), int(seconds))
    confine(of_conversion((Path(package), Path(given)), Path(output)))
    arguments = [sys.executable, "-I", "-m", "bioengine_runner.conversion", step, package, given, output]
    os.execve(sys.executable, arguments, _variables(output))


def _limit(memory: int, seconds: int) -> None:
    processors = len(os.sched_getaffinity(0))
    for limit, wanted in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_AS, memory + _MAPPED),
        (resource.RLIMIT_CPU, seconds * processors),
        (resource.RLIMIT_FSIZE, _MAX_FILE),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, _MAX_THREADS),
        (resource.RLIMIT_CORE, 0),
    ):
        most = resource.getrlimit(limit)[1]
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(limit, (value, value))


def _variables(output: str) -> dict[str, str]:
    """The environment of the step: nothing of the user's, and temporary files in the one folder that it may write."""
    return {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": output,
        "TMPDIR": output,
        "USER": "bioengine",
        "BIOIMAGEIO_CACHE_PATH": str(Path(output) / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        **_OF_TENSORFLOW,
    }


if __name__ == "__main__":
    main()
