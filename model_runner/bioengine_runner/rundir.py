"""The run dir: files that the processes of a running Triton share on this node. It must not be on a network file system.

    <run dir>/boot-<id>/            one for each start of Triton; earlier ones are removed
        runner/                     Triton's first model repository: bioengine-model-runner
        models/                     Triton's second model repository: a folder for each bioimage.io model, made on demand
        processes/                  records of the models' processes and their state (bioengine_runner.loading.records)
        locks/                      one lock file for each model
        empty/                      the working directory, empty so that a relative path in a model's file finds nothing
        home/, tmp/                 for caches and temporary files of Triton's processes, instead of the user's

`launch` makes it and passes its path in the environment, which Triton passes to its Python processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bioengine_contract.trust import parse_trusted

from bioengine_runner.precision import Precision

BOOT_FOLDER = "BIOENGINE_BOOT_FOLDER"
STORE = "BIOENGINE_STORE"
RUN_TIMEOUT = "BIOENGINE_RUN_TIMEOUT"
DEBUG = "BIOENGINE_DEBUG"
TRUSTED_MODELS = "BIOENGINE_TRUSTED_MODELS"
ACCELERATOR = "BIOENGINE_ACCELERATOR"
PRECISION = "BIOENGINE_PRECISION"
SHARED_TENSORS = "BIOENGINE_SHARED_TENSORS"
LABELS = "BIOENGINE_LABELS_ENVIRONMENT"


@dataclass(frozen=True)
class Boot:
    """The folder of one start of Triton, and the settings that its processes share."""

    folder: Path
    store: Path
    run_timeout: float
    debug: bool
    trusted: frozenset[str] = frozenset()
    accelerator: str = "auto"
    precision: Precision = "exact"
    shared_tensors: Path | None = None
    labels: Path | None = None
    """The environment with the programs that find objects, if it is installed."""

    @classmethod
    def from_environment(cls) -> Boot:
        return cls(
            folder=Path(os.environ[BOOT_FOLDER]),
            store=Path(os.environ[STORE]),
            run_timeout=float(os.environ[RUN_TIMEOUT]),
            debug=os.environ[DEBUG] == "1",
            trusted=parse_trusted(os.environ[TRUSTED_MODELS]),
            accelerator=os.environ[ACCELERATOR],
            precision="fast" if os.environ[PRECISION] == "fast" else "exact",
            shared_tensors=Path(shared) if (shared := os.environ[SHARED_TENSORS]) else None,
            labels=Path(labels) if (labels := os.environ.get(LABELS)) else None,
        )

    def to_environment(self) -> dict[str, str]:
        return {
            BOOT_FOLDER: str(self.folder),
            STORE: str(self.store),
            RUN_TIMEOUT: str(self.run_timeout),
            DEBUG: "1" if self.debug else "0",
            TRUSTED_MODELS: ",".join(sorted(self.trusted)),
            ACCELERATOR: self.accelerator,
            PRECISION: self.precision,
            SHARED_TENSORS: str(self.shared_tensors or ""),
            LABELS: str(self.labels or ""),
        }

    @property
    def runner_repository(self) -> Path:
        return self.folder / "runner"

    @property
    def model_repository(self) -> Path:
        return self.folder / "models"

    @property
    def own_repository(self) -> Path:
        """Links to the admin's own models."""
        return self.folder / "own"

    @property
    def working_directory(self) -> Path:
        return self.folder / "empty"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def cache(self) -> Path:
        """bioimageio's."""
        return self.folder / "bioimageio-cache"

    @property
    def processes(self) -> Path:
        return self.folder / "processes"

    @property
    def locks(self) -> Path:
        return self.folder / "locks"
