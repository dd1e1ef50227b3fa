"""The stack that is measured: a server in a temporary home, with a model that returns its input."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from bioengine_contract.ids import RUNNER

from bioengine_server.bench.client import Client
from bioengine_server.bench.cpu import Watched
from bioengine_server.network.http_get import get
from bioengine_server.network.ports import free_ports
from bioengine_server.own_server import own_server
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore
from bioengine_server.triton.connection import socket_url
from bioengine_server.triton.orphans import processes_of, processes_of_model

LIBRARIES = ("imjoy-rpc", "hypha-rpc")

# The environments of the two client libraries, which cannot share one; the tests use them as well.
CLIENT_ENVIRONMENTS = {"imjoy-rpc": "client-imjoy", "hypha-rpc": "client-hypha"}

_PACKAGES = Path(__file__).parent / "packages"
_LOOK_INTERVAL = 0.1  # seconds


@dataclass(frozen=True)
class BenchStack:
    """A running stack. `pid`: the server's process. `folder`: for temporary files; it is deleted at the end."""

    settings: Settings
    pid: int
    folder: Path

    def user(self, library: str, url: str = "") -> Client:
        """A user's program with one of `LIBRARIES`, for this server or the one with a URL."""
        return self._client(CLIENT_ENVIRONMENTS[library], library, url or self.settings.url)

    def triton_user(self, address: str) -> Client:
        """A client of Triton's own protocol."""
        return self._client("server", "tritonclient", address)

    @property
    def triton_address(self) -> str:
        """Where Triton itself listens: a Unix socket, or the port that the settings name."""
        port = self.settings.triton_port
        return f"127.0.0.1:{port}" if port else socket_url(self.settings.triton_sockets / "http")

    def floor_user(self, address: str) -> Client:
        """A client of `floor.echo_server`."""
        return self._client("server", "tcp", address)

    def core_user(self) -> Client:
        """bioimageio.core without a server, with the models of this stack."""
        return self._client("runner", "bioimageio.core", str(self.settings.store))

    def memory(self, model: str | None = None) -> int:
        """Memory of all processes, or of those of one Triton model, in bytes."""
        prefix = self.settings.shm_prefix
        return stack_memory(self.pid, prefix) if model is None else pss(processes_of_model(prefix, model))

    def has_card(self) -> bool:
        """Whether its models compute on a GPU."""
        return any(str(model["device"]).startswith("cuda") for model in self._status()["models"])

    def card_memory(self) -> int:
        """Memory of GPUs that its processes hold according to `nvidia-smi`, in bytes; 0 without a GPU."""
        query = ["nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]
        try:
            lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        except (OSError, subprocess.SubprocessError):
            return 0
        own = {pid for pids in self.processes().values() for pid in pids}
        held = (line.split(",") for line in lines if line.count(",") == 1)
        return sum(int(size) * 2**20 for pid, size in held if size.strip().isdecimal() and int(pid) in own)

    def _status(self) -> dict[str, Any]:
        """The answer of `get_status`."""
        answer: dict[str, Any] = get(f"{self.settings.url}/public/services/triton-client/get_status", 20).json()
        return answer

    def watched(self, case: Callable[[], float], client: Client) -> Watched:
        """A measurement by `client` that also records the CPU time of each process."""
        return Watched(case, client, self.processes)

    def processes(self) -> dict[str, list[int]]:
        """Ids of the processes that work on requests, by group: the server, Triton, the model runner, models."""
        groups: dict[str, list[int]] = {"server": [self.pid], "Triton": [], "runner": [], "models": []}
        for process in processes_of(self.settings.shm_prefix):
            groups[group_of(process.info["cmdline"])].append(process.pid)
        return groups

    @contextlib.contextmanager
    def peak_memory(self, model: str | None = None) -> Iterator[list[int]]:
        """Measures the memory again and again while the context is open; the list then contains the values."""
        seen: list[int] = []
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_INTERVAL):
                seen.append(self.memory(model))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()
            seen.append(self.memory(model))

    def _client(self, environment: str, kind: str, address: str) -> Client:
        return Client(self.settings.environments / environment / "bin" / "python", kind, address, self.folder)


@contextlib.contextmanager
def bench_stack(settings: Settings) -> Iterator[BenchStack]:
    """A stack with these `settings`, but on free ports, in a home that is deleted at the end, and without limits of requests.

    Raises StackError.
    """
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="bioengine-bench-")))
        port, triton_port = free_ports(2)
        own = settings.model_copy(
            update={
                "home": folder / "home",
                "store": folder / "home" / "models",
                "run_dir": folder / "run",
                "host": "127.0.0.1",
                "port": port,
                # As the settings have it, on a port or a Unix socket; but not on the port of a server that runs.
                "triton_port": triton_port if settings.triton_port else None,
                "triton": "embedded",
                "offline": True,
                "access": "auto",
                "anonymous_requests": 0,
                "anonymous_max_request_size": 0,
            }
        )
        store = ModelStore(own.store)
        for package in _PACKAGES.iterdir():
            store.import_package(package)
        # Hypha leaves files of its own in the temporary folder.
        process = parts.enter_context(own_server(own, TMPDIR=str(folder)))
        yield BenchStack(own, process.pid, folder)


def group_of(command: list[str]) -> str:
    """The group of a process of Triton's, found by its command line."""
    if Path(command[0]).name == "tritonserver":
        return "Triton"
    return "runner" if any(argument.startswith(f"{RUNNER}_0_") for argument in command) else "models"


def stack_memory(server_pid: int, shm_prefix: str) -> int:
    """Memory of a server and of its Triton's processes, in bytes."""
    return pss([psutil.Process(server_pid), *processes_of(shm_prefix)])


def pss(processes: Iterable[psutil.Process]) -> int:
    """Memory of processes in bytes; what several of them share is counted once."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total
