"""Read descriptions of packages and lists of collections in separate processes (`bioengine_server.store.reader_process`).

A description may be malicious: reading a few kilobytes can take minutes and gigabytes. In the server's process, even in a thread,
that would block everybody. There are at most `_PROCESSES` such processes; further requests wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bioengine_contract.manifest import Manifest

from bioengine_server.store.description import PackageTooNew
from bioengine_server.store.errors import InvalidPackage, NotAPackage
from bioengine_server.store.external_data import RefusedWeights

_PROCESSES = 2
_PATIENCE = 60.0  # seconds for one answer; the process may compute for a part of them
_MAX_ANSWER = 20_000_000  # bytes

T = TypeVar("T")


class _NoAnswer(Exception):
    """The process has ended, or had to be killed."""


class _Idle(_NoAnswer):
    """The process had ended because it was idle, just when the request was sent."""


def read_raw(source: Path | str, content: bytes) -> dict[str, Any]:
    """Read a description as plain data. Raises NotAPackage.

    Args:
        source: where it came from, for messages.
    """
    raw: dict[str, Any] = _ask(source, "read_raw", content)
    return raw


def read_package(source: Path | str, folder: Path, id: str, files: dict[str, str]) -> Manifest:
    """Validate a package and make its manifest. Raises NotAPackage, InvalidPackage, PackageTooNew, RefusedWeights.

    Args:
        source: where it came from, for messages and the manifest.
        folder: where its files are now.
        id: the id under which it is stored.
        files: SHA-256 of each file, by its path within the package.
    """
    return Manifest.model_validate(_ask(source, "read_package", b"", folder=str(folder), id=id, files=files, origin=str(source)))


def external_paths(source: Path | str, file: Path) -> list[str]:
    """The files from which the ONNX file `file` reads its tensors, as paths relative to its folder. Raises NotAPackage.

    Args:
        source: where its package came from, for messages.
    """
    paths: list[str] = _ask(source, "external_paths", b"", file=str(file))
    return paths


def is_alone_onnx(source: Path | str, file: Path) -> bool:
    """Whether `file` is ONNX that reads its tensors from no other file, by no path whatever. Raises NotAPackage.

    Args:
        source: where it came from, for messages.
    """
    alone: bool = _ask(source, "is_alone_onnx", b"", file=str(file))
    return alone


def search_listing(url: str, content: bytes, words: list[str]) -> list[dict[str, str]]:
    """The models in a collection's listing that contain all `words`: id, name, description. Raises NotAPackage."""
    listed: list[dict[str, str]] = _ask(url, "search_listing", content, words=words)
    return listed


def look_up(url: str, content: bytes, ids: list[str]) -> dict[str, str]:
    """The URLs of the descriptions of `ids`, according to an id map. Raises NotAPackage."""
    found: dict[str, str] = _ask(url, "look_up", content, ids=ids)
    return found


async def apart(read: Callable[..., T], *arguments: Any) -> T:
    """Run `read(*arguments)`, one of these functions, without blocking the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_readers, read, *arguments)


def _ask(source: Path | str, operation: str, content: bytes, **arguments: Any) -> Any:
    if threading.current_thread() not in _reader_threads:
        return _readers.submit(_ask, source, operation, content, **arguments).result()
    request = json.dumps({"operation": operation, "size": len(content), **arguments}).encode() + b"\n" + content
    try:
        answer = _own_process().answer(request)
    except _NoAnswer as error:
        raise NotAPackage(source, "its description takes too much time or memory to read") from error
    if "invalid" in answer:
        raise InvalidPackage(source, answer["invalid"])
    if "too_new" in answer:
        raise PackageTooNew(source, answer["too_new"])
    if "bad_weights" in answer:
        raise RefusedWeights(source, answer["bad_weights"])
    if "unreadable" in answer:
        raise NotAPackage(source, answer["unreadable"])
    return answer["result"]


class _Process:
    """One process, which is started when it is needed and ends when it is idle."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def answer(self, request: bytes) -> dict[str, Any]:
        """Send a request and return the answer. Raises _NoAnswer."""
        try:
            return self._answer(request)
        except _Idle:
            return self._answer(request)

    def _answer(self, request: bytes) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._start()
        process, deadline = self._process, time.monotonic() + _PATIENCE
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            self._write(process.stdin.fileno(), request, deadline)
            read = _Lines(process.stdout.fileno(), deadline)
            size = int(read.line())
            if size > _MAX_ANSWER:
                raise _NoAnswer
            answer: dict[str, Any] = json.loads(read.exactly(size))
        except (_NoAnswer, OSError, ValueError) as error:
            raise _Idle if self._end() == 0 else _NoAnswer from error
        return answer

    def _start(self) -> None:
        # Only the environment variables that Python needs: no settings, no secrets.
        environment = {key: os.environ[key] for key in ("PATH", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "bioengine_server.store.reader_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"},
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def _end(self) -> int:
        """Kill the process and its working fork. Returns the exit status, which is 0 if it had already ended, being idle."""
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            process.wait(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return status

    @staticmethod
    def _write(file: int, content: bytes, deadline: float) -> None:
        left = memoryview(content)
        while left:
            _wait(file, select.POLLOUT, deadline)
            left = left[os.write(file, left) :]


class _Lines:
    """Reads from a pipe until a deadline."""

    def __init__(self, file: int, deadline: float) -> None:
        self._file, self._deadline, self._buffer = file, deadline, bytearray()

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._more()
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return bytes(line)

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        return bytes(self._buffer)

    def _more(self) -> None:
        _wait(self._file, select.POLLIN, self._deadline)
        chunk = os.read(self._file, 1 << 20)
        if not chunk:
            raise _NoAnswer
        self._buffer += chunk


def _wait(file: int, event: int, deadline: float) -> None:
    """Wait until `file` can be read or written. Raises _NoAnswer at the deadline."""
    poll = select.poll()  # `select.select` supports only the first 1,024 file descriptors of a process
    poll.register(file, event)
    if not poll.poll(max(0, int((deadline - time.monotonic()) * 1000))):
        raise _NoAnswer


_reader_threads: set[threading.Thread] = set()
_local = threading.local()
_readers = ThreadPoolExecutor(
    _PROCESSES, thread_name_prefix="reader", initializer=lambda: _reader_threads.add(threading.current_thread())
)


def _own_process() -> _Process:
    """The reader process that belongs to this thread."""
    if not hasattr(_local, "process"):
        _local.process = _Process()
    process: _Process = _local.process
    return process
