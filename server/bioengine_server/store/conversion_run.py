"""Run a step of a conversion in its sandbox (`bioengine_runner.conversion`), and read what it has left.

Nothing of it is believed: the report is a reason to name, and the arrays are compared by the server.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import BaseModel, ValidationError

from bioengine_server.store.errors import StoreError
from bioengine_server.store.hostile_process import NotAFile, TookTooLong, open_left_file, run_hostile
from bioengine_server.store.written import Written, WroteTooMuch
from bioengine_server.untrusted import shown

_SECONDS = 600  # that a step may take, and compute on each processor
_MAX_MEMORY = 8 << 30  # bytes
_MIN_MEMORY = 1 << 30
_MAX_THREADS = 1024
_MAX_REPORT = 100_000  # bytes
_CPU_LIMIT, _BAD_CALL = -signal.SIGXCPU, -signal.SIGSYS

_REPORT, _REFUSED_CALL = "report.json", "refused-call"


class NotConverted(StoreError):
    """`reason`: why not, as the second half of a sentence."""

    code = "not_converted"

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(f"The weights of {id} were not converted: {reason}.")
        self.reason = reason


class NeedsModule(NotConverted):
    """Code of the package, or its library, needs the Python module `module`, which the environment does not contain."""

    code = "conversion_needs_module"

    def __init__(self, id: str, module: str) -> None:
        super().__init__(id, f"its code needs the Python module {module}, which the environment for conversions does not contain")
        self.module = module


class _Outcome(StrEnum):
    """As in `bioengine_runner.conversion.report`."""

    DONE = "done"
    NEEDS_MODULE = "needs module"
    TOO_LITTLE_MEMORY = "too little memory"
    NO_SANDBOX = "no sandbox"
    FAILED = "failed"


class StepReport(BaseModel):
    """What a step says of itself."""

    outcome: _Outcome
    detail: str
    versions: dict[str, str]
    remarks: list[str]


def run_step(id: str, step: str, python: Path, package: Path, given: Path, output: Path) -> StepReport:
    """Run a step, and return its report if it says that it is done. Raises NotConverted.

    Args:
        id: the model's, for messages.
        step: the format of the package's own weights, or `onnx`.
        python: of the environment to run it in.
        package, given: the folders that it reads.
        output: the empty folder that it writes.
    """
    memory, written = _memory(), Written(output)
    command = [
        *(str(python), "-I", "-m", "bioengine_runner.conversion.start"),
        *(step, str(package), str(given), str(output), str(memory), str(_SECONDS)),
    ]
    variables = {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH", "PATH", "TZ") if name in os.environ}
    try:
        status, said = run_hostile(command, variables, _SECONDS, lambda pid: _watch(id, pid, written, memory))
        written.check()
    except WroteTooMuch as error:
        raise NotConverted(id, str(error)) from None
    except TookTooLong:
        raise NotConverted(id, f"it took more than {_SECONDS} s") from None
    if status == _CPU_LIMIT:
        raise NotConverted(id, f"it took more than {_SECONDS} s of computing time")
    if status == _BAD_CALL:
        # The C library blocks all signals while it starts a program: the process ends without a report.
        raise NotConverted(id, "its code tried to start a program, or made another system call that the sandbox refuses")
    if call := _refused_call(output / _REFUSED_CALL):
        raise NotConverted(id, f"its code made the system call {call}, which the sandbox refuses")
    report = _report(id, output / _REPORT, status, said)
    if report.outcome == _Outcome.NEEDS_MODULE:
        raise NeedsModule(id, shown(report.detail, 500))
    if reason := _reason(report, memory):
        raise NotConverted(id, reason)
    return report


def read_array(id: str, file: Path) -> np.ndarray:
    """An array of numbers that a step has written. It is mapped, not read: its size is whatever the step has chosen, and no
    process of the step is there any more that could change it. Raises NotConverted.
    """
    try:
        with open_left_file(file) as stream:
            return _array(stream)
    except FileNotFoundError:
        raise NotConverted(id, f"its code has not written the output {file.name}") from None
    except Exception:  # NumPy's reader of headers raises what Python's parser does
        raise NotConverted(id, f"its code has written something else than the output {file.name}") from None


def write_arrays(folder: Path, sample: int, arrays: Sequence[np.ndarray]) -> None:
    """Write the inputs of a sample for a step."""
    for number, array in enumerate(arrays):
        np.save(folder / f"sample-{sample}-{number}.npy", array)


def _array(stream: BinaryIO) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError("not written by this project")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    count = math.prod(shape)
    # Nothing is allocated for a size that the file does not have.
    if is_fortran or dtype.kind not in "biuf" or stream.tell() + count * dtype.itemsize != os.fstat(stream.fileno()).st_size:
        raise ValueError("the size is not that of its header")
    if not count:
        return np.zeros(shape, dtype)
    return np.memmap(stream, dtype, "r", stream.tell(), shape)


def _memory() -> int:
    """The bytes that a step may have: what models need, but not what the machine has not."""
    import psutil  # here, because Triton's image has none: its commands only tell of conversions

    return max(_MIN_MEMORY, min(_MAX_MEMORY, psutil.virtual_memory().available * 3 // 4))


def _watch(id: str, pid: int, written: Written, memory: int) -> None:
    """What the kernel does not limit. Raises NotConverted, WroteTooMuch."""
    import psutil

    written.check()

    try:
        process = psutil.Process(pid)
        held, threads = process.memory_info().rss, process.num_threads()
    except psutil.Error:
        return  # it has ended
    if held > memory:
        raise NotConverted(id, _too_much(memory))
    if threads > _MAX_THREADS:
        raise NotConverted(id, f"its code started more than {_MAX_THREADS} threads")


def _too_much(memory: int) -> str:
    return f"it needs more memory than the {memory / 1e9:.1f} GB that a conversion may have here"


def _refused_call(file: Path) -> str:
    """The name of the system call that ended a step; empty if none did."""
    try:
        with open_left_file(file) as stream:
            return shown(stream.read(32).rstrip(b"\0").decode(errors="replace"))
    except (FileNotFoundError, NotAFile, OSError):
        return ""


def _report(id: str, file: Path, status: int, said: str) -> StepReport:
    try:
        with open_left_file(file) as stream:
            return StepReport.model_validate_json(stream.read(_MAX_REPORT))
    except FileNotFoundError:
        last = shown((said.strip().splitlines() or ["no reason given"])[-1], 300)
        raise NotConverted(id, f"its process ended with the status {status} ({last})") from None
    except (NotAFile, ValidationError, OSError):
        raise NotConverted(id, "its code has replaced the report of the conversion") from None


def _reason(report: StepReport, memory: int) -> str:
    """Why a step has not done what it should; empty if it says that it has."""
    detail = shown(report.detail, 500)
    match report.outcome:
        case _Outcome.DONE:
            return ""
        case _Outcome.TOO_LITTLE_MEMORY:
            return _too_much(memory)
        case _Outcome.NO_SANDBOX:
            return (
                f"this machine's kernel has {detail or 'nothing'}, but the sandbox for code of packages needs Landlock "
                "(Linux 5.13) and seccomp on x86-64"
            )
        case _:
            return detail or "it failed without a reason"
