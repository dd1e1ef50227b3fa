"""Load and end the Triton models of bioimage.io packages, from within the instances of the runner.

A dead model process is never restarted by Triton and still says READY: its model is unloaded, and loaded again. What a model's
process has come to stands in its record.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy
from bioengine_contract.model_errors import EnvironmentGone, ModelNotLoaded, RunDirUnusable
from bioengine_contract.operations import ModelProcess
from bioengine_contract.triton_model import TritonModel, config_pbtxt

from bioengine_runner.gpu import memory_by_process
from bioengine_runner.loading.records import MODELS, Record, Records
from bioengine_runner.process_log import last_lines
from bioengine_runner.rundir import Boot

logger = logging.getLogger(__name__)

# How long the process of an unloaded model may take to end by itself.
UNLOAD_TIMEOUT = 2.0  # seconds

# Without them Triton cannot start a process that gets as far as our code, and may abort of that.
ENVIRONMENT = (Path(sys.prefix) / "bin" / "python3", Path(numpy.__file__))

# Between two looks at whether a model's process has opened its package.
LOOK_INTERVAL = 0.02  # seconds

_MODEL_FILE = '''"""Made by bioengine_runner.loading.loader; its package and weights are in config.pbtxt."""
try:
    from bioengine_contract.lean_import import lean_import

    with lean_import():
        from bioengine_runner.model import BioimageioModel as TritonPythonModel
except BaseException:
    # Not for Triton, which may abort where a model cannot be loaded: the loader finds that no process has begun.
    import traceback

    traceback.print_exc()

    class TritonPythonModel:
        def execute(self, requests):
            raise RuntimeError("the model runner's environment cannot be imported")
'''


class TritonRepository(Protocol):
    """What `triton_python_backend_utils` offers for loading."""

    def load_model(self, model_name: str) -> None: ...

    def unload_model(self, model_name: str) -> None: ...


class Loader:
    """One in each instance of the runner; they agree by the records, and by a lock file for each model."""

    def __init__(self, boot: Boot, triton: TritonRepository) -> None:
        self._boot = boot
        self._records = Records(boot, MODELS)
        self._triton = triton

    def begin(self, model: TritonModel) -> None:
        """Have `model` loaded, unless a process is there that runs it, or is about to. Raises RequestError."""
        with self._usable_run_dir(model), self._lock(model.name):
            record = self._records.get(model.name)
            if record is not None and record.is_usable and record.fingerprint == model.package.fingerprint:
                return
            self._load(model)

    def ensure(self, model: TritonModel) -> ModelProcess:
        """`begin`, and wait until its process has opened the package. Raises RequestError."""
        self.begin(model)
        deadline = time.monotonic() + self._boot.run_timeout
        while (found := self.process(model.name)).state == "opening":
            if time.monotonic() > deadline:
                self.end(model.name)
                raise ModelNotLoaded(model.manifest.id, f"it was not open after {self._boot.run_timeout:g} s")
            time.sleep(LOOK_INTERVAL)
        if found.state == "failed":
            self.unload(model.name)  # its process holds what it has opened
        found.raise_unless_open(model.manifest.id)
        return found

    def process(self, name: str) -> ModelProcess:
        """What has become of the process of a model."""
        record = self._records.get(name)
        if record is None:
            return ModelProcess(state="none")
        found = _described(record, {})
        if found.state == "ended" and not record.weight_format and (lines := last_lines(self._boot, name)):
            found.reason += f"; its log ended with: {lines}"
        return found

    def processes(self) -> dict[str, ModelProcess]:
        """The processes of all models, and the memory that they hold."""
        on_cards = memory_by_process()
        return {name: _described(record, on_cards) for name, record in self._records.all().items()}

    def end(self, name: str) -> None:
        """End what a model's process is working on, with the process."""
        if record := self._records.get(name):
            record.process.end(timeout=0)

    def unload(self, name: str) -> None:
        """Unload a model and see its process end: only then is its memory free, and does a plain load start a new one."""
        with self._lock(name):
            self._unload(name)

    def _load(self, model: TritonModel) -> None:
        if not all(part.exists() for part in ENVIRONMENT):
            raise EnvironmentGone(model.manifest.id)
        folder = self._boot.model_repository / model.name
        if folder.exists():
            self._unload(model.name)
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "1" / "model.py").write_text(_MODEL_FILE)
        (folder / "config.pbtxt").write_text(config_pbtxt(model, str(model.package.folder)))
        started = time.monotonic()
        try:
            self._triton.load_model(model_name=model.name)
        except Exception as error:
            logger.error("Loading %s failed: %s", model.name, error)
            raise ModelNotLoaded(model.manifest.id, "Triton could not start its process") from error
        if self._records.get(model.name) is None:
            raise ModelNotLoaded(model.manifest.id, "its process could not begin")
        logger.info("Started %s in %.1f s", model.name, time.monotonic() - started)

    def _unload(self, name: str) -> None:
        self._triton.unload_model(model_name=name)
        if record := self._records.get(name):
            record.process.end(UNLOAD_TIMEOUT)
            self._records.forget(name)

    @contextlib.contextmanager
    def _usable_run_dir(self, model: TritonModel) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.exception("The run dir cannot be used")
            raise RunDirUnusable(model.manifest.id, error.strerror) from error

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Hold the lock of a model; the system gives it back when this process dies."""
        self._boot.locks.mkdir(exist_ok=True)
        with open(self._boot.locks / name, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _described(record: Record, on_cards: dict[int, int]) -> ModelProcess:
    if record.problem:
        return ModelProcess(state="failed", reason=record.problem, code=record.code)
    if not record.process.is_alive():
        return ModelProcess(state="ended", reason=record.process.how_it_ended())
    return ModelProcess(
        state="open" if record.weight_format else "opening",
        weight_format=record.weight_format,
        device=record.device,
        pid=record.pid,
        started=record.started,
        memory=record.process.memory(),
        # NVML does not report it for virtual cards, and in a container it does not know this process's id.
        gpu_memory=on_cards.get(record.pid) or record.gpu_memory,
        details=record.details,
    )
