"""A client of a running BioEngine, like any other: hypha-rpc, anonymous or with the token in BIOENGINE_TOKEN."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from hypha_rpc.sync import connect_to_server

from bioengine_server.errors import NoServer, NotConnected, RunFailed
from bioengine_server.triton.api import ROUTER

# hypha-rpc 0.21 warns of a lost connection also when we hang up ourselves, and prints an error before it raises it.
for _name in ("RPC", "websocket-client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class TensorAxes:
    """An input or output of a model: its name, and its axes in the letters of format 0.4, such as "bcyx"."""

    name: str
    axes: str


@dataclass(frozen=True)
class Model:
    """A model as its description says."""

    id: str
    inputs: list[TensorAxes]
    outputs: list[TensorAxes]


class ModelClient:
    """A connection to a server; open it as a context."""

    def __init__(self, url: str, timeout: float) -> None:
        """
        Args:
            url: of the server, such as http://127.0.0.1:9520.
            timeout: seconds that a run may take.

        Raises NoServer, NotConnected.
        """
        self._url = url.rstrip("/")
        self._timeout = timeout

    def __enter__(self) -> ModelClient:
        try:
            httpx.get(f"{self._url}/health/liveness", timeout=10).raise_for_status()
        except httpx.HTTPError as error:
            raise NoServer(self._url) from error
        config = {"name": "bioengine run", "server_url": self._url, "method_timeout": self._timeout}
        if token := os.environ.get("BIOENGINE_TOKEN"):
            config["token"] = token
        try:
            self._server = connect_to_server(config)
        except ConnectionAbortedError as error:  # hypha-rpc's, with the server's reason
            raise NotConnected(self._url, str(error)) from error
        self._triton = self._server.get_service("triton-client")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.disconnect()

    def describe(self, id: str) -> Model:
        """The model's inputs and outputs. Raises RunFailed."""
        rdf = self._ask({"model_id": id, "return_rdf": True})["rdf"]
        inputs, outputs = ([TensorAxes(item["name"], item["axes"]) for item in rdf[kind]] for kind in ("inputs", "outputs"))
        return Model(id, inputs, outputs)

    def run(self, id: str, inputs: Sequence[np.ndarray], weights: str | None = None) -> tuple[list[np.ndarray], float]:
        """The model's outputs, and the seconds that it took. Raises RunFailed."""
        request: dict[str, Any] = {"model_id": id, "inputs": list(inputs)}
        if weights is not None:
            request["weight_format"] = weights
        result = self._ask(request)
        return result["outputs"], result["execution_time"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._triton.execute(inputs=[request], model_name=ROUTER, serialization="imjoy")
        result: dict[str, Any] = answer["result"]
        if result.get("success") is False:
            raise RunFailed(result["error"])
        return result
