"""Reads what packages and collections say of themselves, in processes of its own (`bioengine_server.store.reader_process`).

A description is written by whoever has written it: a few kilobytes can be made to take minutes and gigabytes. Read in the
server's process, even in a thread, that would keep everybody waiting. There are `_PROCESSES` at most; what comes meanwhile waits.
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
_PATIENCE = 60.0  # seconds for one answer, of which it may compute some
_MAX_ANSWER = 20_000_000  # bytes

T = TypeVar("T")


class _NoAnswer(Exception):
    """The process has ended, or had to be ended."""


class _Idle(_NoAnswer):
    """It had ended itself just when the request came."""


def read_raw(source: Path | str, content: bytes) -> dict[str, Any]:
    """The plain data of a description. Raises NotAPackage.

    Args:
        source: where it came from, for messages.
    """
    raw: dict[str, Any] = _ask(source, "read_raw", content)
    return raw


def read_package(source: Path | str, folder: Path, id: str, files: dict[str, str]) -> Manifest:
    """The manifest of a package, validated. Raises NotAPackage, InvalidPackage, PackageTooNew, RefusedWeights.

    Args:
        source: where it came from, for messages and the manifest.
        folder: where its files are now.
        id: that it is stored under.
        files: SHA-256 of each file, by its path within the package.
    """
    return Manifest.model_validate(_ask(source, "read_package", b"", folder=str(folder), id=id, files=files, origin=str(source)))


def external_paths(source: Path | str, file: Path) -> list[str]:
    """The paths, from its own folder, of the files that the ONNX file `file` reads its tensors from. Raises NotAPackage.

    Args:
        source: of its package, for messages.
    """
    paths: list[str] = _ask(source, "external_paths", b"", file=str(file))
    return paths


def search_listing(url: str, content: bytes, words: list[str]) -> list[dict[str, str]]:
    """The models of a collection's listing that have all of `words`: id, name, description. Raises NotAPackage."""
    listed: list[dict[str, str]] = _ask(url, "search_listing", content, words=words)
    return listed


def look_up(url: str, content: bytes, ids: list[str]) -> dict[str, str]:
    """Where an id map says that the descriptions of `ids` are. Raises NotAPackage."""
    found: dict[str, str] = _ask(url, "look_up", content, ids=ids)
    return found


async def apart(read: Callable[..., T], *arguments: Any) -> T:
    """`read(*arguments)`, one of these functions, while the event loop goes on."""
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
    """One process, which is started when it is needed and ends itself when it is not."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def answer(self, request: bytes) -> dict[str, Any]:
        """Raises _NoAnswer."""
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
        # Nothing of the environment but what Python needs: no setting, no secret.
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
        """End the process, and the fork of it that works; its exit status, 0 where it had ended itself, since it was idle."""
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
    """Bytes of a pipe until a deadline."""

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
    poll = select.poll()  # `select.select` knows the first 1,024 files of a process only
    poll.register(file, event)
    if not poll.poll(max(0, int((deadline - time.monotonic()) * 1000))):
        raise _NoAnswer


_reader_threads: set[threading.Thread] = set()
_local = threading.local()
_readers = ThreadPoolExecutor(
    _PROCESSES, thread_name_prefix="reader", initializer=lambda: _reader_threads.add(threading.current_thread())
)


def _own_process() -> _Process:
    """The process of this thread."""
    if not hasattr(_local, "process"):
        _local.process = _Process()
    process: _Process = _local.process
    return process
