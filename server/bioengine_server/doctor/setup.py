"""The set-up that is examined: the server's settings, and what Docker Compose takes from the environment or `.env`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from bioengine_server.settings import Settings

_ENV_FILE = Path(__file__).resolve().parents[3] / ".env"


@dataclass(frozen=True)
class Setup:
    """`compose`: the settings of the containers, by name."""

    settings: Settings
    compose: dict[str, str]

    @classmethod
    def from_environment(cls, settings: Settings, env_file: Path = _ENV_FILE) -> Setup:
        """The environment's variables win over those of `.env`, as with Docker Compose."""
        values = {**dotenv_values(env_file), **os.environ}
        return cls(settings, {name: value for name, value in values.items() if value and name.startswith("BIOENGINE_")})

    @property
    def wants_gpu(self) -> bool:
        return self.settings.accelerator == "cuda" or self.compose.get("BIOENGINE_RUNTIME") == "nvidia"
