"""The set-up that is examined: the settings of `./bioengine`, and what Docker Compose takes from the environment or `.env`.

`./bioengine` does not read `.env`: its content is only for the containers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from bioengine_server.project import PROJECT
from bioengine_server.settings import Settings

_ENV_FILE = PROJECT / ".env"


@dataclass(frozen=True)
class Setup:
    """`compose`: the settings of the containers, by name. `env_only`: those only in `.env` that `./bioengine` has too."""

    settings: Settings
    compose: dict[str, str]
    env_only: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, settings: Settings, env_file: Path = _ENV_FILE) -> Setup:
        """Read the set-up. Environment variables override those in `.env`, as with Docker Compose."""
        values = {**dotenv_values(env_file), **os.environ}
        compose = {name: value for name, value in values.items() if value and name.startswith("BIOENGINE_")}
        shared = (f"BIOENGINE_{name.upper()}" for name in Settings.model_fields)
        return cls(settings, compose, tuple(sorted(name for name in shared if name in compose and name not in os.environ)))

    @property
    def gpu_for_containers(self) -> str:
        """The containers' setting that requires a GPU; empty if none does."""
        return "BIOENGINE_RUNTIME=nvidia" if self.compose.get("BIOENGINE_RUNTIME") == "nvidia" else ""

    @property
    def gpu_here(self) -> str:
        """The setting of `./bioengine` that requires a GPU."""
        return "BIOENGINE_ACCELERATOR=cuda" if self.settings.accelerator == "cuda" else ""

    @property
    def wants_gpu(self) -> str:
        """The settings that require a GPU, with what they are for, as text."""
        containers = self.gpu_for_containers
        if not containers and self.compose.get("BIOENGINE_ACCELERATOR", "").lower() == "cuda" and not self.gpu_here:
            containers = "BIOENGINE_ACCELERATOR=cuda"  # of `.env`
        return " and ".join(filter(None, (self.gpu_here, containers and f"{containers} for the containers")))
