"""Errors that stop the measurements."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError


class BenchFailed(BioEngineError):
    code = "bench_failed"

    def __init__(self, client: str, reason: str) -> None:
        super().__init__(
            f"The measurements were stopped, because {client} did not get the expected answer: {reason}. A server that answers "
            "wrongly, or not at all, is not measured; `./bioengine up` and the log that it names may show why."
        )


class TooLittleSharedMemory(BioEngineError):
    code = "too_little_shared_memory"

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(
            f"The huge image was not measured: /dev/shm has {free / 1e9:.1f} GB free, and Triton passes the image and its result "
            f"there, {needed / 1e9:.1f} GB. Make it larger (`sudo mount -o remount,size=8G /dev/shm`, or in a container its "
            "shm_size), or leave out --huge."
        )
