"""Load and heal the Triton models of bioimage.io packages, from within the routers.

A dead model process is never restarted by Triton and still says READY. Whoever sees it first unloads the model, waits for
its process to end, and loads it again, under the model's lock; all who waited for the lock go on with the new one.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import time
from pathlib import Path
from typing import Protocol

import numpy

from bioengine_runner.errors import EnvironmentGone, ModelNotLoaded, RequestError, RunDirUnusable, unmark
from bioengine_runner.loading.registry import LoadedModel, Registry
from bioengine_runner.loading.triton_model import TritonModel
from bioengine_runner.rundir import Boot

logger = logging.getLogger(__name__)

# For this long a model that could not be loaded gets the same answer again, so that a crowd of requests for it does not
# load it over and over; another import of its package ends the wait at once.
FAILURE_REMEMBERED = 10.0  # seconds

# How long the process of an unloaded model may take to end by itself.
UNLOAD_PATIENCE = 2.0  # seconds


# Without them Triton cannot start a process that gets as far as our code, and may abort of that.
ENVIRONMENT = (Path(sys.prefix) / "bin" / "python3", Path(numpy.__file__))

# Between two looks at whether a model's process has opened its package.
LOOK_INTERVAL = 0.02  # seconds


class TritonRepository(Protocol):
    """What `triton_python_backend_utils` offers for loading."""

    def load_model(self, model_name: str) -> None: ...

    def unload_model(self, model_name: str) -> None: ...


class Loader:
    """Loads models on demand; one instance in each router, all meeting in the registry."""

    def __init__(self, boot: Boot, registry: Registry, triton: TritonRepository) -> None:
        self._boot = boot
        self._registry = registry
        self._triton = triton

    def ensure(self, model: TritonModel) -> int:
        """Have `model` loaded and its process alive. Returns the generation of its load. Raises RequestError."""
        known = self._registry.model(model.name)
        if known is not None and self._is_usable(known, model):
            return known.generation
        return self._load_in_run_dir(model, stale=known.generation if known else 0)

    def heal(self, model: TritonModel, generation: int) -> int:
        """Load `model` anew unless somebody did since `generation`. Returns the new generation. Raises RequestError."""
        return self._load_in_run_dir(model, stale=generation)

    def end_run(self, name: str) -> None:
        """End what the Triton model `name` is working on, with its process."""
        if process := self._registry.process(f"model:{name}"):
            process.end(patience=0)

    def is_alive(self, model: TritonModel) -> bool:
        process = self._registry.process(f"model:{model.name}")
        return process is not None and process.is_alive()

    def is_loaded(self, model: TritonModel) -> bool:
        """Whether a request finds it loaded, and its process alive."""
        known = self._registry.model(model.name)
        return known is not None and self._is_usable(known, model)

    def how_it_ended(self, model: TritonModel) -> str:
        """What is known of the end of the model's process, as the second half of a sentence."""
        process = self._registry.process(f"model:{model.name}")
        return "its process has ended" if process is None or process.is_alive() else process.how_it_ended()

    def _is_usable(self, known: LoadedModel, model: TritonModel) -> bool:
        return known.error is None and known.package == model.manifest.fingerprint and self.is_alive(model)

    def _load_in_run_dir(self, model: TritonModel, stale: int) -> int:
        try:
            return self._load(model, stale)
        except (OSError, sqlite3.Error) as error:
            logger.exception("The run dir cannot be used")
            reason = error.strerror if isinstance(error, OSError) else error
            raise RunDirUnusable(model.manifest.id, reason) from error

    def _load(self, model: TritonModel, stale: int) -> int:
        with self._registry.lock(model.name):
            known = self._registry.model(model.name)
            package = model.manifest.fingerprint
            if known is not None:
                if known.generation > stale and self._is_usable(known, model):
                    return known.generation
                if known.error and known.package == package and time.time() - known.changed < FAILURE_REMEMBERED:
                    raise RequestError(known.error)
                self._unload(model.name)
            generation = known.generation + 1 if known else 1
            if not all(part.exists() for part in ENVIRONMENT):
                raise EnvironmentGone(model.manifest.id)
            model.write(self._boot.model_repository)
            started = time.monotonic()
            try:
                self._triton.load_model(model_name=model.name)
            except Exception as error:
                reason = unmark(str(error))
                if reason is None:
                    logger.error("Loading %s failed: %s", model.name, error)
                    reason = str(ModelNotLoaded(model.manifest.id, "Triton could not start its process"))
                self._registry.record_model(model.name, package, generation, reason)
                raise RequestError(reason) from error
            if problem := self._problem_of_opening(model):
                self._unload(model.name)
                self._registry.record_model(model.name, package, generation, problem)
                raise RequestError(problem)
            self._registry.record_model(model.name, package, generation, None)
            logger.info("Loaded %s in %.1f s", model.name, time.monotonic() - started)
            return generation

    def _problem_of_opening(self, model: TritonModel) -> str | None:
        """Wait for the model's process to open its package (`bioengine_runner.opening`); why it could not, or None."""
        owner = f"model:{model.name}"
        deadline = time.monotonic() + self._boot.run_timeout
        while True:
            process = self._registry.process(owner)
            is_alive = process is not None and process.is_alive()
            # Asked after that: it may have told this last of all.
            if problem := self._registry.problem(owner):
                return problem
            if not is_alive:
                reason = "its process could not begin" if process is None else process.how_it_ended()
                return str(ModelNotLoaded(model.manifest.id, reason))
            if self._registry.has_opened(owner):
                return None
            if process is not None and time.monotonic() > deadline:
                process.end(patience=0)
                return str(ModelNotLoaded(model.manifest.id, f"it was not open after {self._boot.run_timeout:g} s"))
            time.sleep(LOOK_INTERVAL)

    def _unload(self, name: str) -> None:
        """Unload a model and see its process end: only then is its memory free and a plain load starts a new one."""
        self._triton.unload_model(model_name=name)
        owner = f"model:{name}"
        if process := self._registry.process(owner):
            process.end(UNLOAD_PATIENCE)
            self._registry.forget_process(owner)
