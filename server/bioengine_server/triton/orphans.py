"""What a Triton of this home may leave behind when it is killed: Python processes, shared memory segments, shared tensors.

Both carry the home's shared memory prefix, so nothing of anybody else is touched.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from bioengine_contract.removal import remove

logger = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")


def processes_of(shm_prefix: str) -> list[psutil.Process]:
    """Our user's Triton servers and Python processes that were started with `shm_prefix`; anybody may start some that look so."""
    return [process for process in _processes() if any(shm_prefix in argument for argument in process.info["cmdline"])]


def _processes() -> Iterator[psutil.Process]:
    """Our user's Triton servers and Python processes of Triton, whatever their home."""
    for process in psutil.process_iter(["cmdline", "uids"]):
        command, uids = process.info["cmdline"], process.info["uids"]
        if command and uids is not None and uids.effective == os.geteuid():
            if Path(command[0]).name in ("tritonserver", "triton_python_backend_stub"):
                yield process


def processes_of_model(shm_prefix: str, model: str) -> list[psutil.Process]:
    """The Python processes of a Triton model, one for each instance."""
    # The command line of a stub names its instance, <model>_0_<number>.
    return [
        process
        for process in processes_of(shm_prefix)
        if any(argument.startswith(f"{model}_0_") for argument in process.info["cmdline"])
    ]


def left_of(shm_prefixes: Iterable[str]) -> list[str]:
    """Those of these prefixes of which there are processes or shared memory, found by looking at either only once."""
    arguments = [argument for process in _processes() for argument in process.info["cmdline"]]
    segments = [segment.name for segment in _SHARED_MEMORY.glob("bioengine-*")]
    return [
        prefix
        for prefix in shm_prefixes
        if any(prefix in argument for argument in arguments) or any(name.startswith(prefix) for name in segments)
    ]


def sweep(shm_prefix: str, level: int = logging.WARNING) -> None:
    """Kill leftover processes of this home and remove what it has in shared memory. What is of other users is left alone.

    `level`: with which the processes are logged.
    """
    processes = processes_of(shm_prefix)
    for process in processes:
        logger.log(level, "Ending the leftover process %d", process.pid)
        try:
            process.kill()
        except psutil.Error:
            pass  # gone meanwhile
    psutil.wait_procs(processes, timeout=3)
    for segment in _SHARED_MEMORY.glob(f"{shm_prefix}*"):
        try:
            is_ours = segment.lstat().st_uid == os.getuid()
        except OSError:
            continue  # gone meanwhile
        if is_ours and not remove(segment):
            logger.warning("%s cannot be removed", segment)
