"""What a server asks of `bioengine-model-runner` in its Triton beside runs: to load models, to end them, and to say what lives.

An operation is a request with the key `operation`, and an answer is a dict; both in the encoding of `message`. What goes wrong
comes back as `{"error": message, "code": code}`.

    {"operation": "load", "package": "<id>/<version>", "name": ..., "weight_formats": [...], "fingerprint": ..., "card": ...}
        begins to load a model, unless that has happened -> its process
    {"operation": "process", "name": ...}   -> its process
    {"operation": "unload", "name": ...}    -> {}, when its process has ended and its memory is free
    {"operation": "end", "name": ...}       -> {}, when its process has been killed
    {"operation": "report"}                 -> a report
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from bioengine_contract.errors import RemoteError
from bioengine_contract.model_errors import ModelNotLoaded


class Load(BaseModel):
    """Begin to load a package as a model of Triton."""

    operation: Literal["load"] = "load"
    package: str
    """Its key, `<id>/<version>`."""
    name: str
    """Of the Triton model."""
    weight_formats: list[str]
    """Those that may be opened, the first choice first."""
    fingerprint: str
    """Of the package; another one means that it was imported again since it was loaded."""
    card: int | None = None
    """The GPU that it is to compute on, where there are several."""


class ModelProcess(BaseModel):
    """The process of a model, as the runner sees it."""

    state: Literal["none", "opening", "open", "failed", "ended"]
    """`none`: there is no process. `failed`: it lives and cannot run its model. `ended`: it has died."""
    reason: str = ""
    """Of `failed` the message for users; of `ended` what is known of it, as the second half of a sentence."""
    code: str = ""
    """Of the error that `failed` stands for."""
    weight_format: str = ""
    """What it has opened."""
    device: str = ""
    """Where it computes, such as "cpu" or "cuda:0"."""
    details: str = ""
    """How it computes and why, for people: a fact on each line."""
    pid: int = 0
    started: int = 0
    """Its id, and its start in clock ticks since the boot (`processes.Process`), for whoever sees the same processes."""
    memory: int = 0
    """Bytes of the host's memory that it holds; memory that it shares with other processes counts in part (PSS)."""
    gpu_memory: int = 0
    """Bytes of the cards' memory that it holds: as NVIDIA's driver reports, otherwise as the process itself estimates."""

    def raise_unless_open(self, model_id: str) -> None:
        """Raises RequestError: why it does not run the model that an id names."""
        if self.state == "failed":
            raise RemoteError(self.reason, self.code)
        if self.state != "open":
            raise ModelNotLoaded(model_id, self.reason or "its process could not begin")


class Card(BaseModel):
    """A GPU of a worker."""

    index: int
    name: str
    memory: int
    """Bytes that it has."""
    free: int
    """Bytes that nobody holds."""


class Report(BaseModel):
    """What lives in a Triton."""

    boot: str
    """Differs after each start of Triton."""
    dead_instances: list[str]
    """Instances of the runner itself whose processes have died."""
    models: dict[str, ModelProcess]
    """By the names of Triton models."""
    memory: int = 0
    """Bytes of memory that its machine has, or its container where that has less."""
    cards: list[Card] = []
    """Those that its models may use."""
