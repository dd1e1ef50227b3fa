"""The embedded Triton: started, watched, restarted with back-off, and ended with all that belongs to it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from bioengine_contract.labels import ENVIRONMENT as LABELS

from bioengine_server.environments import environment
from bioengine_server.errors import StackError
from bioengine_server.log_file import TRITON_LOG, LogFile
from bioengine_server.network.ports import free_ports
from bioengine_server.private_folder import make_private
from bioengine_server.settings import Settings
from bioengine_server.triton.connection import socket_url
from bioengine_server.triton.group import end_remembered, remember
from bioengine_server.triton.log import lines
from bioengine_server.triton.orphans import sweep
from bioengine_server.triton.plain_names import PlainNames

logger = logging.getLogger(__name__)

# Triton waits 3 s for requests in flight (and always as long after a model process was killed).
_END_PATIENCE = 5.0  # seconds

_FIRST_DELAY, _MAX_DELAY = 0.5, 30.0  # seconds between two starts
_STABLE_AFTER = 60.0  # seconds after which a start counts as a success


class TritonProcess:
    """A Triton server of our own, with the model runner in it. It listens where no other user of the machine reaches it, unless
    the settings name a port."""

    def __init__(self, settings: Settings, secret: str, names: PlainNames, on_end: Callable[[str], None]) -> None:
        """
        Args:
            settings: of the server.
            secret: opens Triton's closed APIs.
            names: by which it gets the folders.
            on_end: told when Triton has ended by itself and is started again.
        """
        self._settings, self._names = settings, names
        # Looked up once: a newer environment is for the next start of this server, not for the next one of Triton.
        self._runner, self._triton = (environment(settings.environments, name) for name in ("runner", "triton"))
        self._labels = environment(settings.environments, LABELS)
        self._on_end = on_end
        self._stopping = False
        self._secret = secret
        self._listens_on: dict[str, object] = {"TRITON_SOCKETS": settings.triton_sockets}
        self.url = self.address(settings)
        if port := settings.triton_port:
            self._listens_on = {"TRITON_HTTP_PORT": port, "TRITON_METRICS_PORT": free_ports(1)[0]}
        self.log_file = settings.node_folder / TRITON_LOG
        self._group_file = settings.node_folder / "triton-group"
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None
        self._log = logging.getLogger("triton")
        self._log.propagate = False

    @staticmethod
    def address(settings: Settings) -> str:
        """Where a Triton with these settings listens."""
        if port := settings.triton_port:
            return f"http://127.0.0.1:{port}"
        return socket_url(settings.triton_sockets / "http")

    def start(self) -> None:
        """Start Triton and keep it running. Raises UnsafeFolder, StackError."""
        try:
            self._clean()
            self._environment()
            self._log.addHandler(LogFile(self.log_file, logging.Formatter("%(message)s")))
        except OSError as error:
            raise StackError(
                f"{error.filename} cannot be made: {error.strerror}. Free space there, or give yourself access to it."
            ) from error
        self._log.setLevel(logging.INFO)
        self._task = asyncio.create_task(self._keep_running())

    def restart(self) -> None:
        """Kill a Triton that is stuck; it is started again."""
        if self._process is not None and self._process.poll() is None:
            logger.error("Triton is stuck, killing it")
            self._process.kill()

    async def stop(self) -> None:
        """End Triton, its processes and its shared memory. May be called again meanwhile."""
        if self._end is None:
            self._end = asyncio.create_task(self._stop())
        await asyncio.shield(self._end)

    async def _stop(self) -> None:
        self._stopping = True
        if self._process is not None:
            self._process.terminate()
            try:
                async with asyncio.timeout(_END_PATIENCE):
                    while self._process.poll() is None:
                        await asyncio.sleep(0.05)
            except TimeoutError:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
            _end_children(self._process)
        if self._task is not None:
            self._task.cancel()
        # A normal end as well: it does not wait for all processes of models.
        await asyncio.to_thread(sweep, self._settings.shm_prefix, logging.DEBUG)
        await asyncio.to_thread(self._names.clear)

    async def _keep_running(self) -> None:
        delay, is_first = _FIRST_DELAY, True
        while not self._stopping:
            started = time.monotonic()
            try:
                if not is_first:
                    await asyncio.to_thread(self._clean)
                self._process = process = self._begun()
            except (OSError, StackError) as error:  # such as a disk that is full for a while
                self._on_end("Triton cannot be started")
                logger.error("Triton cannot be started: %s. Trying again in %.1f s", error, delay)
            else:
                # Polled: what waits for the end of its output waits for its orphaned children as well.
                while process.poll() is None:
                    await asyncio.sleep(0.1)
                if self._stopping:
                    return
                _end_children(process)
                if time.monotonic() - started > _STABLE_AFTER:
                    delay = _FIRST_DELAY
                self._on_end("Triton has ended and is started again")
                logger.error(
                    "Triton ended by itself (%d); its log is %s. Starting it again in %.1f s",
                    process.returncode, self.log_file, delay,
                )  # fmt: skip
            await asyncio.sleep(delay)
            delay, is_first = min(delay * 2, _MAX_DELAY), False

    def _begun(self) -> subprocess.Popen[bytes]:
        """A new Triton. Raises OSError."""
        process = subprocess.Popen(
            [str(self._runner / "bin" / "python"), "-P", "-m", "bioengine_runner.launch"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Not of our process group: Ctrl-C in the terminal reaches us alone, and we end it in order.
            start_new_session=True,
        )
        remember(self._group_file, process.pid)
        threading.Thread(target=self._write_log, args=(process,), daemon=True).start()
        return process

    def _clean(self) -> None:
        """Leave nothing of an earlier Triton, and a folder for shared tensors and one for its sockets."""
        end_remembered(self._group_file)
        sweep(self._settings.shm_prefix)
        for folder in (self._settings.tensor_folder, self._settings.triton_sockets):
            if folder is not None:
                make_private(folder)

    def _write_log(self, process: subprocess.Popen[bytes]) -> None:
        assert isinstance(process.stdout, io.BufferedReader)
        for line in lines(process.stdout):
            self._log.info("%s", line)

    def _environment(self) -> dict[str, str]:
        settings, names = self._settings, self._names
        names.clear()
        triton = names.of(self._triton, "triton")
        ours: dict[str, object] = {
            "TRITONSERVER": triton / "bin" / "tritonserver",
            "BACKENDS": triton / "backends",
            "PYTHON_ENVIRONMENT": names.of_environment(self._runner, "runner"),
            "STORE": names.of(settings.store, "store"),
            "TRITON_MODELS": settings.triton_models,
            "RUN_DIR": names.of(settings.node_folder, "run"),
            "TRITON_SECRET": self._secret,
            "SHM_PREFIX": settings.shm_prefix,
            "SHARED_TENSORS": settings.tensor_folder or "",
            "RUN_TIMEOUT": settings.run_timeout,
            "DEBUG": int(settings.debug),
            "TRUSTED_MODELS": settings.trusted_models,
            "ACCELERATOR": settings.accelerator,
            "PRECISION": settings.precision,
            "CONFINE": settings.confine,
            "DIE_WITH_PARENT": 1,
            **self._listens_on,
        }
        if self._labels.is_dir():
            ours["LABELS_ENVIRONMENT"] = self._labels
        if names.folder is not None:
            ours["PLAIN_NAMES"] = names.folder
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("BIOENGINE_", "HYPHA_", "JWT_SECRET", "NOTIFY_SOCKET"))
        }
        libraries = [str(triton / "lib"), str(triton / "python"), os.environ.get("LD_LIBRARY_PATH", "")]
        return {
            **inherited,
            **{f"BIOENGINE_{key}": str(value) for key, value in ours.items()},
            "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
        }


def _end_children(ended: subprocess.Popen[bytes]) -> None:
    """End the processes of a Triton that has ended; one that it had just begun may not notice, nor does `sweep` know it yet."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(ended.pid, signal.SIGKILL)
