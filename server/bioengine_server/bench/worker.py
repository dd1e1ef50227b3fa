"""An image to a model on a worker, which takes it from the server over HTTP, against the server's own Triton."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from bioengine_server.bench.errors import BenchFailed
from bioengine_server.bench.measurement import Measurement, interleaved
from bioengine_server.bench.stack import LIBRARIES, BenchStack
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.network.http_get import get
from bioengine_server.network.ports import free_ports
from bioengine_server.own_server import environment_of, own_server
from bioengine_server.settings import Settings

_WARM_UP = 2
_SIZES = (("4 MB", 1024, 75.0), ("16 MB", 2048, 250.0))
"""Name, pixels of a side, limit in ms."""
_RATIO_LIMIT = 1.5
_START_TIMEOUT = 90.0  # seconds


def worker(stack: BenchStack, rounds: int) -> list[Measurement]:
    measurements = []
    with _server_with_worker(stack) as url, stack.user(LIBRARIES[-1]) as near, stack.user(LIBRARIES[-1], url) as far:
        for size, side, limit in _SIZES:
            values = interleaved({"near": partial(near.echo, side), "far": partial(far.echo, side)}, rounds, _WARM_UP)
            reference = Measurement(f"echo {size}, by the server's own Triton", "ms", values["near"])
            through = Measurement(f"echo {size}, by a worker", "ms", values["far"], reference, limit, ratio_limit=_RATIO_LIMIT)
            measurements += [reference, through]
    return measurements


@contextlib.contextmanager
def _server_with_worker(stack: BenchStack) -> Iterator[str]:
    """A server without a Triton, with the models of the stack, and one worker; yields the server's URL. Raises StackError."""
    (port,) = free_ports(1)
    token_file = stack.folder / "worker-token"
    token_file.touch(0o600)
    token_file.write_text(new_secret())
    server = stack.settings.model_copy(
        update={
            "home": stack.folder / "server-of-worker",
            "store": stack.settings.store,
            "run_dir": stack.folder / "run-of-server",
            "port": port,
            "triton": "workers",
            "triton_port": None,
            "worker_token_file": token_file,
        }
    )
    home = stack.folder / "worker"
    own = server.model_copy(
        update={"home": home, "store": home / "models", "run_dir": None, "server_url": server.url, "worker_name": "bench"}
    )
    # Hypha leaves files of its own in the temporary folder.
    with own_server(server, TMPDIR=str(stack.folder)), _worker(own, TMPDIR=str(stack.folder)):
        yield server.url


@contextlib.contextmanager
def _worker(settings: Settings, **environment: str) -> Iterator[None]:
    """A worker with these settings and further environment variables, ready. Raises BenchFailed."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bioengine_server.bound", "worker"],
        env={**environment_of(settings), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while get(f"{settings.server_url}/health/readiness", 5).json().get("workers") != 1:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchFailed("the server", "the worker beside it did not become ready")
            time.sleep(0.2)
        yield
    finally:
        process.communicate()
