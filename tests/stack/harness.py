"""Start, call, disturb and stop a real stack."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from bioengine_server.bench.stack import stack_memory
from bioengine_server.cli import app
from bioengine_server.settings import Settings
from bioengine_server.triton.orphans import processes_of, processes_of_model
from hypha_rpc.sync import connect_to_server
from typer.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo"
ENVIRONMENTS = Path(os.environ.get("BIOENGINE_ENVIRONMENTS", ROOT / ".environments"))
RUNNER = "bioengine-model-runner"
# What the docs print where a user has the address of a server.
USUAL_URL = "http://127.0.0.1:9520"
_COMMAND = threading.Lock()  # a command's output and variables are those of the whole process


def python(environment: str) -> str:
    return str(ENVIRONMENTS / environment / "bin" / "python")


EXECUTABLE = (str(ROOT / "bioengine"),)
# What the executable becomes, once it has seen that the environments are there, which takes as long as a command itself. It is
# started by the tests that are about it, and those of clusters, of Slurm and of attacks.
PROGRAM = (str((ENVIRONMENTS / "server").resolve() / "bin" / "python"), "-P", "-m", "bioengine_server")


def build_packages(folder: Path, *options: str) -> None:
    """Make a folder with small packages (`tests.packages.build`). They are built once, for all runs of pytest, until what builds
    them changes."""
    builders = hashlib.sha256(str(Path(python("runner")).parents[1].resolve()).encode())
    for file in sorted((ROOT / "tests" / "packages").glob("*.py")):
        builders.update(file.read_bytes())
    built = ROOT / ".pytest_cache" / "packages" / f"{builders.hexdigest()[:16]}{''.join(options)}"
    built.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{built}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            begun = Path(f"{built}.begun")
            shutil.rmtree(begun, ignore_errors=True)
            subprocess.run([python("runner"), "-m", "tests.packages.build", str(begun), *options], cwd=ROOT, check=True)
            begun.rename(built)
    shutil.copytree(built, folder)


def bioengine(
    *arguments: str, timeout: float = 300, program: Sequence[str] = PROGRAM, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, in a process of its own, to its end."""
    return subprocess.run(
        [*program, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def command(*arguments: str, **environment: str) -> Result:
    """Run a command in this process, which takes a tenth of the time of one of its own; one at a time."""
    with _COMMAND:
        before = os.umask(0o077)
        os.umask(before)
        try:
            return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environment})
        finally:
            os.umask(before)  # commands that write to the home change it, for the rest of their process


def fill_home(home: Path, *packages: Path) -> None:
    """Make a home with all small packages of these folders, and the zoo's, and with the tests' own Triton models."""
    shutil.copytree(_store_of(*packages), home / "models")
    shutil.copytree(ROOT / "tests" / "triton_models", home / "triton-models", ignore=shutil.ignore_patterns("__pycache__"))


@functools.cache
def _store_of(*packages: Path) -> Path:
    """A store of these packages as they are now, and of those that a server imports at its start; made once, to be copied."""
    from bioengine_server.store.model_store import ModelStore

    store = ModelStore(Path(tempfile.mkdtemp(prefix="store-", dir=packages[0].parent)) / "models")
    for folder in (folder for parent in (*packages, ZOO) if parent.is_dir() for folder in parent.iterdir()):
        if folder.is_dir() and not folder.name.startswith(("bioengine-probe", "bench-")):
            store.import_package(folder)
    store.prepare()
    return store.folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def get(url: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a GET; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except OSError:
        return 0, {}


def wait_for(condition: Any, seconds: float, what: str) -> float:
    """Wait for `condition()` to be true; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - started


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Stack:
    """`bioengine up` with a home, as a user starts it."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        port: int | None = None,
        command: str = "up",
        wait: bool = True,
        program: Sequence[str] = PROGRAM,
        **environment: str,
    ) -> None:
        self.home = home
        self._wait = wait
        self._program = program
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = [command, "--home", str(home), *(["--port", str(self.port)] if command == "up" else []), *arguments]
        # Offline unless a test brings a collection: nothing here goes to the internet.
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", "BIOENGINE_OFFLINE": "1", **environment}
        self.log_file = home.parent / f"{home.name}-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Stack:
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [*self._program, *self._arguments],
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if self._wait:
            try:
                self.wait_until_ready()
            except BaseException:
                self.__exit__()  # nobody else ends it: the context has not been entered
                raise
        return self

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if any(text in self.log for text in ("Traceback", "never retrieved")):
            print(self.log, file=sys.stderr)

    def is_ready(self) -> bool:
        return get(f"{self.url}/health/readiness")[0] == 200

    def wait_until_ready(self, seconds: float = 60) -> float:
        def condition() -> bool:
            assert self.process is not None and self.process.poll() is None, f"the stack ended:\n{self.log}"
            return self.is_ready()

        return wait_for(condition, seconds, f"ready; its log:\n{self.log}\n")

    def stop(self, signal_number: int = signal.SIGTERM) -> float:
        """Stop it as its user would; the seconds that it took."""
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(signal_number)
        self.process.wait(30)
        return time.monotonic() - started

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home)

    def triton_processes(self) -> list[psutil.Process]:
        """With their command lines of now in `info`: one that has died meanwhile has none any more."""
        return processes_of(self.settings.shm_prefix)

    def triton(self) -> psutil.Process:
        return next(process for process in self.triton_processes() if "tritonserver" in process.info["cmdline"][0])

    def stubs(self, model: str) -> list[psutil.Process]:
        """The Python processes of a Triton model, one for each instance."""
        return processes_of_model(self.settings.shm_prefix, model)

    def kill(self, model: str) -> None:
        """End the processes of a Triton model, and see them dead."""
        processes = self.stubs(model)
        assert processes, f"{model} is not loaded"
        for process in processes:
            process.kill()
        # One that is ending has no command line any more; Triton does not collect its dead children.
        wait_for(lambda: not any(map(_runs, processes)), 10, "the processes are dead")

    def models(self) -> list[psutil.Process]:
        """The processes of bioimage.io models, but for the server's own probe."""
        own = (f"/{RUNNER}/", "/bioengine-probe/", "/triton-models/")
        return [
            process
            for process in self.triton_processes()
            if "stub" in process.info["cmdline"][0] and not any(name in process.info["cmdline"][1] for name in own)
        ]

    def runners(self) -> dict[str, psutil.Process]:
        """The newest process of each instance of the model runner. After a reload, the old ones need some time to end."""
        newest: dict[str, psutil.Process] = {}
        for process in sorted(self.stubs(RUNNER), key=lambda process: process.create_time()):
            newest[next(argument for argument in process.info["cmdline"] if argument.startswith(f"{RUNNER}_0_"))] = process
        return newest

    def shared_memory(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"{self.settings.shm_prefix}*"))

    def leftovers(self) -> list[str]:
        """What is still there of it: processes, shared memory, its port."""
        found = [f"process {process.pid}" for process in self.triton_processes()]
        found += [str(segment) for segment in self.shared_memory()]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                found.append(f"port {self.port}")
        return found

    def pss(self) -> float:
        """Proportional memory of all its processes, in bytes."""
        assert self.process is not None
        return stack_memory(self.process.pid, self.settings.shm_prefix)

    def server_pss(self) -> float:
        """Of the server's own process alone, in bytes."""
        assert self.process is not None
        return float(psutil.Process(self.process.pid).memory_full_info().pss)

    def statistics(self, model: str) -> dict[str, int]:
        """Triton's own count of a model's requests, and of calls of its process."""
        (found,) = self.ask_triton(f"/v2/models/{model}/stats")["model_stats"]
        return {key: int(found[key]) for key in ("inference_count", "execution_count")}

    def ask_triton(self, path: str) -> dict[str, Any]:
        """Triton's own answer, by its socket."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.settings.triton_sockets / "http"))) as triton:
            answer: dict[str, Any] = triton.get(f"http://triton{path}").raise_for_status().json()
        return answer

    def client(self, token: str = "") -> Client:
        return Client(self.url, token)

    def token(self, name: str, *options: str) -> str:
        """A new token, as the admin makes it."""
        with ThreadPoolExecutor(1) as beside:  # an event loop of the test's own may be running in this thread
            made = beside.submit(command, "token", "create", name, *options, "--home", str(self.home)).result()
        assert made.exit_code == 0, made.stderr
        return made.stdout.strip()


class Client:
    """A hypha-rpc client (sync), anonymous unless it has a token."""

    def __init__(self, url: str, token: str = "") -> None:
        self.server = connect_to_server({"server_url": url, "method_timeout": 120, **({"token": token} if token else {})})
        self.triton = self.server.get_service("triton-client")

    def run(self, model_id: Any, inputs: Any, **more: Any) -> dict[str, Any]:
        """The result of a run of a stored model."""
        request = {"model_id": model_id, "inputs": inputs, **more}
        answer = self.triton.execute(inputs=[request], model_name=RUNNER, serialization="imjoy")
        assert set(answer) == {"result", "__info__"}
        return dict(answer["result"])

    def close(self) -> None:
        self.server.disconnect()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def snail(seconds: float) -> np.ndarray:
    """An input of `slow-snail` that keeps it at work for as many seconds; (1, 1, 4, 4), float32."""
    return np.full((1, 1, 4, 4), seconds, np.float32)


def example_input(packages: Path, id: str) -> list[np.ndarray]:
    return _arrays(packages / id, "test_input")


def example_output(packages: Path, id: str) -> list[np.ndarray]:
    return _arrays(packages / id, "test_output")


def _arrays(folder: Path, name: str) -> list[np.ndarray]:
    """Of `<name>.npy`, or of `<name>_0.npy`, `<name>_1.npy`, ..."""
    return [np.load(file) for file in sorted(folder.glob(f"{name}*.npy"), key=lambda file: (len(file.name), file.name))]


def copy_package(packages: Path, id: str, target: Path) -> Path:
    return Path(shutil.copytree(packages / id, target / id))
