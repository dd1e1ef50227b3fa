"""The settings of Triton and the model runner, read once by `bioengine_runner.launch`.

Each is an environment variable with the prefix `BIOENGINE_`; docs/settings.md lists them for admins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from bioengine_contract.trust import parse_trusted
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bioengine_runner.precision import Precision


class Settings(BaseSettings):
    """The settings with which Triton and the model runner are started."""

    model_config = SettingsConfigDict(env_prefix="BIOENGINE_", use_attribute_docstrings=True)

    tritonserver: Path
    """The tritonserver program."""

    backends: Path
    """Folder with Triton's Python backend, `python/`."""

    model_repository: Path = Path(__file__).resolve().parent / "model_repository"
    """Folder with the Triton model `bioengine-model-runner/`."""

    python_environment: Path = Path(sys.prefix)
    """The path of this Python environment; if it has spaces or non-ASCII letters, which Triton cannot handle, a link to it."""

    plain_names: Path | None = None
    """Folder of links to folders whose paths Triton cannot handle; used only if this user owns it and its mode is 700."""

    store: Path
    """The model store; Triton's side only reads it."""

    run_dir: Path
    """Folder for the files that Triton's processes share; it must be on this node, not on a network file system."""

    triton_models: Path | None = None
    """Folder with the admin's own Triton models, `<name>/config.pbtxt` and `<name>/<version>/`, loaded at each start."""

    triton_secret: SecretStr | None = Field(default=None, min_length=32)
    """The secret with which the server, and nobody else, can use Triton's closed APIs (loading models and the like). An embedded
    Triton gets a new one at each start."""

    triton_secret_file: Path | None = None
    """File with that secret, which the server creates in a shared folder; Triton's start waits for it."""

    runtime: str = "runc"
    """The container's Docker runtime: with `nvidia`, there has to be a GPU."""

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
    """Prefix of the names of Triton's shared memory segments in /dev/shm, by which orphaned segments are recognized."""

    shared_tensors: Path | None = None
    """In-memory folder, shared with the server, for tensors that are passed by reference. Without it they are sent as bytes."""

    labels_environment: Path | None = None
    """The environment `labels`, with StarDist and Cellpose, if it is installed."""

    run_timeout: float = Field(default=3000.0, gt=0)
    """Seconds that one run of a model may take before its process is killed."""

    trusted_models: str = ""
    """Packages that may run Python code of their own: entries `id@hash`, separated by commas."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """`cuda`: models compute on the GPU, or are not loaded. `auto`: on a GPU if there is one. `cpu`: always on the CPU."""

    precision: Precision = "exact"
    """How models compute on a card. `fast`: products of 32-bit floats may be rounded to TensorFloat-32."""

    debug: bool = False
    """Show tracebacks in the errors that clients get."""

    confine: Literal["auto", "require", "off"] = "auto"
    """Whether Triton and its models are confined (`bioengine_runner.confinement`). `auto`: as far as the kernel supports it.
    `require`: Triton does not start unless the kernel supports all of it. `off`: not at all."""

    @field_validator("trusted_models")
    @classmethod
    def _entries(cls, value: str) -> str:
        parse_trusted(value)
        return value
