"""Triton's HTTP API, as far as the server uses it, through `tritonclient`."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import numpy as np
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from bioengine_server.errors import BioEngineError, RefusedArgument, TritonUnavailable
from bioengine_server.memory import image_passes
from bioengine_server.triton import message
from bioengine_server.triton.connection import NO_REDIRECTS, BoundedAnswer, base_url, connector, triton_client
from bioengine_server.triton.shared import SharedFolder, SharedTensors

T = TypeVar("T")

ROUTER = "bioengine-model-runner"
SECRET_HEADER = "bioengine-secret"

# Long enough for the longest run that the runner allows; the runner ends those that take longer.
_TIMEOUT_MARGIN = 600.0  # seconds

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_DEAD = re.compile(r"Stub process .* is not healthy")

# aiohttp asks for gzip otherwise, and Triton then takes half a second to zip 16 MB.
_NOT_ZIPPED = {"Accept-Encoding": "identity"}

_STREAMED_AT_ONCE = 1 << 20  # bytes
_ENCODED_AT_ONCE = 1 << 20  # bytes; a thread for fewer takes longer than they do
_MOST_CONFIGS = 1024


class TritonError(BioEngineError):
    """Triton answered a request with an error.

    Args:
        text: what it says.
        status: the HTTP status.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(message.plain_error(text))
        self.status = status
        self.process_died = _DEAD.search(text) is not None
        """Whether a process of the model has ended, which Triton does not start again."""

    @property
    def is_of_request(self) -> bool:
        """Whether the request was wrong: whoever sends it again gets the same answer, and nothing is to be repaired."""
        return 400 <= self.status < 500 and not self.process_died


@dataclass(frozen=True)
class InferOptions:
    """What Triton is asked for besides the inputs, named as in its inference request (a client's: `service.infer_options`)."""

    model_version: str = ""
    request_id: str = ""
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    priority: int = 0
    timeout: int | None = None
    """Microseconds that the request may wait in Triton's queue."""


@dataclass(frozen=True)
class InferResult:
    """Outputs by name, and Triton's own description of the response."""

    outputs: dict[str, np.ndarray]
    info: dict[str, Any]


class TritonApi:
    """One Triton server."""

    def __init__(self, url: str, secret: str, run_timeout: float, shared: SharedTensors = SharedTensors(None)) -> None:
        """
        Args:
            url: such as http://127.0.0.1:8000 or unix:/path (`bioengine_server.triton.connection`).
            secret: opens the closed APIs.
            run_timeout: seconds that the runner lets a model run.
            shared: for tensors by reference.
        """
        self.url = url
        self.run_timeout = run_timeout
        self._shared = shared
        self._headers = {SECRET_HEADER: secret}
        self._session: aiohttp.ClientSession | None = None
        self._configs: dict[tuple[str, str], dict[str, Any]] = {}
        self._timeout = aiohttp.ClientTimeout(total=run_timeout + _TIMEOUT_MARGIN)
        self._client = triton_client(url, run_timeout + _TIMEOUT_MARGIN)

    async def close(self) -> None:
        await self._client.close()
        if self._session is not None:
            await self._session.close()

    async def is_ready(self, model_name: str) -> bool:
        try:
            return bool(await self._client.is_model_ready(model_name))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def is_live(self) -> bool:
        """Whether Triton answers, whatever models it has."""
        try:
            return bool(await self._client.is_server_live())
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def model_config(self, model_name: str, model_version: str = "", from_cache: bool = False) -> dict[str, Any]:
        """Triton's configuration of a loaded model. Raises TritonError, TritonUnavailable, RefusedArgument.

        Args:
            model_name, model_version: of the model; "" is the newest version.
            from_cache: whether one that was asked for before will do.
        """
        key = _checked(model_name), model_version
        if not from_cache or key not in self._configs:
            if len(self._configs) >= _MOST_CONFIGS:
                self._configs.clear()
            self._configs[key] = dict(await self._call(self._client.get_model_config(*key)))
        return self._configs[key]

    async def infer(
        self,
        model_name: str,
        inputs: Sequence[tuple[str, np.ndarray]],
        outputs: Sequence[str] | None = None,
        options: InferOptions = InferOptions(),
    ) -> InferResult:
        """Run a model. Raises TritonError, TritonUnavailable, RefusedArgument.

        Args:
            model_name: a loaded model.
            inputs: name and array of each; arrays of objects (bytes) become Triton's BYTES.
            outputs: the outputs wanted, None for all.
            options: the rest of the request.
        """
        tensors = await _aside(message.size([array for _, array in inputs]), _packed, inputs)
        wanted = None if outputs is None else [triton_http.InferRequestedOutput(name) for name in outputs]
        result = await self._call(
            self._client.infer(
                _checked(model_name),
                tensors,
                outputs=wanted,
                model_version=options.model_version,
                request_id=options.request_id,
                sequence_id=options.sequence_id,
                sequence_start=options.sequence_start,
                sequence_end=options.sequence_end,
                priority=options.priority,
                timeout=options.timeout,
                headers=dict(_NOT_ZIPPED),
            )
        )
        info = result.get_response()
        return InferResult({item["name"]: result.as_numpy(item["name"]) for item in info["outputs"]}, info)

    async def ask_router(
        self, request: dict[str, Any], options: InferOptions = InferOptions()
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """One request of the router and its result (`bioengine_runner.router`), with Triton's response info."""
        with self._shared.folder() as shared:
            size = message.size(request)
            data = await _aside(size, _encoded, request, shared)
            result = await self.infer(ROUTER, [("kwargs", np.array([data], dtype=np.object_))], ["result"], options)
            answer = result.outputs["result"].flat[0]
            return await _aside(max(size, len(answer)), message.decode, answer, shared), result.info

    async def open(
        self, method: str, path: str, body: AsyncIterator[bytes | bytearray] | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """Triton's answer to a request of its protocol, to be read and released.

        Raises TritonError, TritonUnavailable, and what `body` raises.

        Args:
            method, path: such as "POST" and "/v2/models/affable-shark/infer"; of the clients' half of the API.
            body: what to send, streamed.
            headers: of the request; the secret is never among them.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=connector(self.url),
                timeout=self._timeout,
                headers=_NOT_ZIPPED,
                read_bufsize=_STREAMED_AT_ONCE,
                middlewares=NO_REDIRECTS,
                response_class=BoundedAnswer,
            )
        try:
            answer = await self._session.request(method, base_url(self.url) + path, data=body, headers=headers)
            if answer.status < 400:
                return answer
            raise TritonError(await answer.text(errors="replace"), answer.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if isinstance(error.__cause__, BioEngineError):
                raise error.__cause__ from None  # of the body: aiohttp wraps it
            raise TritonUnavailable(type(error).__name__) from error

    async def load_router(self) -> None:
        """Load the router where Triton has none. Raises TritonError, TritonUnavailable."""
        await self._call(self._client.load_model(ROUTER, headers=self._headers))

    async def replace_router(self) -> None:
        """Start new router instances and then end the old ones; those that live go on answering meanwhile.

        A plain load of a loaded model does nothing, so the configuration gets a parameter that differs. To unload first
        would leave a gap of seconds. Raises TritonError (the old ones are still there), TritonUnavailable.
        """
        config = await self.model_config(ROUTER)
        config.setdefault("parameters", {})["replaced"] = {"string_value": uuid.uuid4().hex}
        await self._call(self._client.load_model(ROUTER, headers=self._headers, config=json.dumps(config)))

    async def _call(self, call: Any) -> Any:
        try:
            return await call
        except InferenceServerException as error:
            status = error.status() or ""
            raise TritonError(error.message() or "", int(status) if status.isdecimal() else 500) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise TritonUnavailable(type(error).__name__) from error


async def _aside(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """`work(*arguments)` on about `size` bytes, without keeping other requests waiting for it."""
    if size < _ENCODED_AT_ONCE:
        return work(*arguments)
    image_passes()
    return await asyncio.to_thread(work, *arguments)


def _packed(inputs: Sequence[tuple[str, np.ndarray]]) -> list[triton_http.InferInput]:
    tensors = []
    for name, array in inputs:
        tensor = triton_http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _encoded(request: dict[str, Any], shared: SharedFolder | None) -> bytes:
    return message.encode(request if shared is None else {**request, "shared": shared.name}, shared)


def _checked(model_name: str) -> str:
    """`model_name`, which becomes a part of a URL. Raises RefusedArgument."""
    if not isinstance(model_name, str) or not _MODEL_NAME.fullmatch(model_name):
        raise RefusedArgument("model_name", f"{str(model_name)[:80]!r} is not the name of a model, such as {ROUTER!r}.")
    return model_name
