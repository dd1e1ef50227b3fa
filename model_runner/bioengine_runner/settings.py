"""The settings of the Triton side, read once by `bioengine_runner.launch`.

Each is an environment variable with the prefix `BIOENGINE_`; docs/settings.md lists them for admins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from bioengine_contract.trust import parse_trusted
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What Triton and the model runner are started with."""

    model_config = SettingsConfigDict(env_prefix="BIOENGINE_", use_attribute_docstrings=True)

    tritonserver: Path
    """The tritonserver program."""

    backends: Path
    """Folder with Triton's Python backend, `python/`."""

    model_repository: Path = Path(__file__).resolve().parent / "model_repository"
    """Folder with the Triton model `bioengine-model-runner/`."""

    python_environment: Path = Path(sys.prefix)
    """This Python environment, by a name that Triton can take where its own has a space or other letters than ASCII's."""

    plain_names: Path | None = None
    """Folder of links to folders whose own names Triton cannot take; used only where it is our own, with mode 700."""

    store: Path
    """The model store; read only on this side."""

    run_dir: Path
    """Node-local folder for what the running Triton shares; never on a network file system."""

    triton_models: Path | None = None
    """Folder with the admin's own Triton models, `<name>/config.pbtxt` and `<name>/<version>/`, loaded at each start."""

    triton_secret: SecretStr | None = Field(default=None, min_length=32)
    """Opens Triton's closed APIs (loading models and the like) to the server alone. An embedded Triton gets a new one at
    each start."""

    triton_secret_file: Path | None = None
    """File with that secret, in a folder that the server shares and makes it in: it is waited for."""

    runtime: str = "runc"
    """Docker's runtime, in a container: with `nvidia` there has to be a GPU."""

    triton_sockets: Path | None = None
    """Folder of the Unix sockets that Triton listens on, `http` and `metrics`, closed to other users. Without it, Triton listens
    on the TCP ports below."""

    triton_host: str = "127.0.0.1"
    """Address that Triton listens on: loopback, or a private network that clients cannot reach."""

    triton_http_port: int = 8000
    """Triton's HTTP port, never published."""

    triton_metrics_port: int = 8002
    """Triton's Prometheus metrics, never published."""

    shm_prefix: str = Field(default="bioengine", pattern="^[A-Za-z0-9_-]+$")
    """Prefix of Triton's shared memory segments in /dev/shm, so that leftovers can be told from other programs'."""

    shared_tensors: Path | None = None
    """Folder in memory that the server has too, for tensors by reference. Without it they go as bytes."""

    run_timeout: float = Field(default=3000.0, gt=0)
    """Seconds that one run of a model may take before it is ended."""

    trusted_models: str = ""
    """Packages that may run Python code of their own: entries `id@hash`, separated by commas."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """`cuda`: models compute on the GPU, or are not loaded. `auto`: on a GPU where there is one. `cpu`: never on one."""

    debug: bool = False
    """Show tracebacks in the errors that clients get."""

    confine: Literal["auto", "require", "off"] = "auto"
    """Whether Triton and its models are kept from the rest of the machine (`bioengine_runner.confinement`). `auto`: as far as the
    kernel can. `require`: or it does not start. `off`: not at all."""

    @field_validator("trusted_models")
    @classmethod
    def _entries(cls, value: str) -> str:
        parse_trusted(value)
        return value
