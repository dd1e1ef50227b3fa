"""A client of a running BioEngine, like any other: hypha-rpc, anonymous or with the token in BIOENGINE_TOKEN."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bioengine_contract.ids import RUNNER
from hypha_rpc.sync import connect_to_server

from bioengine_server.images.address import check_address
from bioengine_server.images.advice import for_command_line
from bioengine_server.images.errors import ConnectionLost, NotConnected, RunFailed
from bioengine_server.images.model import Model
from bioengine_server.images.progress import Progress, in_words
from bioengine_server.images.waiting import while_alive

# hypha-rpc 0.21 warns about a lost connection even if this side closed it, and prints an error before it raises it.
for _name in ("RPC", "websocket-client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Answer:
    """The result of a run. `seconds`: how long it took. `warnings`: the server's warnings about inputs and outputs."""

    outputs: list[np.ndarray]
    seconds: float
    warnings: list[str]


class ModelClient:
    """A connection to a server; use it as a context manager."""

    def __init__(self, url: str, timeout: float) -> None:
        """
        Args:
            url: the server's URL, such as http://127.0.0.1:9520.
            timeout: seconds that a run may take.

        Opening it raises NoServer, NotConnected, or what `check_address` raises.
        """
        self._url = url.rstrip("/")
        self._timeout = timeout

    def __enter__(self) -> ModelClient:
        check_address(self._url)
        config = {"name": "bioengine run", "server_url": self._url, "method_timeout": self._timeout}
        if token := os.environ.get("BIOENGINE_TOKEN"):
            config["token"] = token
        try:
            self._server = connect_to_server(config)
        except ConnectionAbortedError as error:  # from hypha-rpc, with the server's reason
            raise NotConnected(self._url, for_command_line(str(error))) from error
        except OSError as error:
            raise ConnectionLost(self._url, str(error) or type(error).__name__) from error
        try:
            self._triton = self._server.get_service("triton-client")
        except Exception as error:  # hypha-rpc's, of whatever the server raised
            self._server.disconnect()
            raise NotConnected(self._url, for_command_line(f"{str(error).rstrip('.')}.")) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._server.disconnect()

    def describe(self, id: str) -> Model:
        """The model's inputs and outputs. Raises RunFailed, ConnectionLost."""
        return Model.of(id, self._ask({"model_id": id, "return_rdf": True})["rdf"])

    def run(
        self,
        id: str,
        inputs: Sequence[np.ndarray | None],
        weights: str | None = None,
        progress: Progress = lambda words: None,
        outputs: list[str] | None = None,
        labels: bool = False,
    ) -> Answer:
        """The model's outputs. Raises RunFailed, ConnectionLost.

        Args:
            id: the model's id.
            inputs: an array for each input; None for an optional input that is left out.
            weights: the weight format; None for the server's choice.
            progress: called with the progress of the run, in another thread.
            outputs: the names of the outputs that are wanted; None for all.
            labels: whether the first output is to be the objects' numbers.
        """
        request: dict[str, Any] = {"model_id": id, "inputs": list(inputs)}
        if weights is not None:
            request["weight_format"] = weights
        if outputs is not None:
            request["outputs"] = outputs
        if labels:
            request["labels"] = True
        result = self._ask(request, progress=lambda event: progress(in_words(event)))
        warnings = [for_command_line(str(warning)) for warning in result.get("warnings") or []]
        return Answer(result["outputs"], result["execution_time"], warnings)

    def _ask(self, request: dict[str, Any], **more: Any) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            answer: dict[str, Any] = self._triton.execute(inputs=[request], model_name=RUNNER, serialization="imjoy", **more)
            return answer

        try:
            answer = while_alive(call, self._url)
        except ConnectionLost:
            raise
        except (OSError, TimeoutError) as error:  # ConnectionError is a subclass of OSError
            raise ConnectionLost(self._url, str(error) or type(error).__name__) from error
        except Exception as error:  # hypha-rpc's, of whatever the server raised: a limit, a refusal
            raise RunFailed(for_command_line(str(error))) from error
        result: dict[str, Any] = answer["result"]
        if result.get("success") is False:
            raise RunFailed(for_command_line(str(result["error"])))
        return result
