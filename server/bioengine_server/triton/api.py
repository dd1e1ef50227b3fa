"""Triton's HTTP API, as far as the server uses it, through `tritonclient`."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import aiohttp
import numpy as np
import tritonclient.http as triton_http
from bioengine_contract import message
from bioengine_contract.errors import BioEngineError
from bioengine_contract.ids import RUNNER, is_triton_name
from bioengine_contract.triton_protocol import SECRET_HEADER
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from bioengine_server.aside import aside
from bioengine_server.triton.connection import NO_REDIRECTS, BoundedAnswer, base_url, connector, triton_client
from bioengine_server.triton.errors import TritonError, TritonUnavailable
from bioengine_server.triton.infer_options import InferOptions

T = TypeVar("T")

# Long enough for the longest run that the runner allows; the runner ends those that take longer.
_TIMEOUT_MARGIN = 600.0  # seconds


# aiohttp asks for gzip otherwise, and Triton then takes half a second to zip 16 MB.
_NOT_ZIPPED = {"Accept-Encoding": "identity"}

# What a request raises that Triton does not answer.
_UNANSWERED = (TimeoutError, aiohttp.ClientError, OSError)

_STREAMED_AT_ONCE = 1 << 20  # bytes
_MAX_CONFIGS = 1024


@dataclass(frozen=True)
class InferResult:
    """Outputs by name, and Triton's own description of the response."""

    outputs: dict[str, np.ndarray]
    info: dict[str, Any]


class TritonApi:
    """One Triton server."""

    def __init__(self, url: str, secret: str, run_timeout: float) -> None:
        """
        Args:
            url: such as http://127.0.0.1:8000 or unix:/path (`bioengine_server.triton.connection`).
            secret: opens the closed APIs.
            run_timeout: seconds that a model may run.
        """
        self.url = url
        self.run_timeout = run_timeout
        self._headers = {SECRET_HEADER: secret}
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False
        self._configs: dict[tuple[str, str], dict[str, Any]] = {}
        self._timeout = aiohttp.ClientTimeout(total=run_timeout + _TIMEOUT_MARGIN)
        self._client = triton_client(url, run_timeout + _TIMEOUT_MARGIN)

    async def close(self) -> None:
        """Whoever still waits for Triton finds it away."""
        self._is_closed = True
        await self._client.close()
        if self._session is not None:
            await self._session.close()

    async def is_ready(self, model_name: str) -> bool:
        try:
            return bool(await self._answered(self._client.is_model_ready(model_name)))
        except TritonUnavailable:
            return False

    async def is_live(self) -> bool:
        """Whether Triton answers, whatever models it has."""
        try:
            return bool(await self._answered(self._client.is_server_live()))
        except TritonUnavailable:
            return False

    async def model_config(self, model_name: str, model_version: str = "", from_cache: bool = False) -> dict[str, Any]:
        """Triton's configuration of a loaded model. Raises TritonError, TritonUnavailable.

        Args:
            model_name, model_version: of the model; "" is the newest version.
            from_cache: whether one that was asked for before will do.
        """
        key = _checked(model_name), model_version
        if not from_cache or key not in self._configs:
            if len(self._configs) >= _MAX_CONFIGS:
                self._configs.clear()
            self._configs[key] = dict(await self._call(self._client.get_model_config(*key)))
        return self._configs[key]

    async def infer(
        self,
        model_name: str,
        inputs: Sequence[tuple[str, np.ndarray]],
        outputs: Sequence[str] | None = None,
        options: InferOptions = InferOptions(),
        parameters: Mapping[str, str] = MappingProxyType({}),
    ) -> InferResult:
        """Run a model. Raises TritonError, TritonUnavailable.

        Args:
            model_name: a loaded model.
            inputs: name and array of each; arrays of objects (bytes) become Triton's BYTES.
            outputs: the outputs wanted, None for all.
            options: the rest of the request.
            parameters: custom ones of the request.
        """
        tensors = await aside(message.size([array for _, array in inputs]), _packed, inputs)
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
                parameters=dict(parameters) or None,
            )
        )
        info = result.get_response()
        return InferResult({item["name"]: result.as_numpy(item["name"]) for item in info["outputs"]}, info)

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
        answer = await self._answered(self._session.request(method, base_url(self.url) + path, data=body, headers=headers))
        if answer.status < 400:
            return answer
        raise TritonError(await self._answered(answer.text(errors="replace")), answer.status)

    async def load_runner(self) -> None:
        """Load the model runner where Triton has none. Raises TritonError, TritonUnavailable."""
        await self._call(self._client.load_model(RUNNER, headers=self._headers))

    async def replace_runner(self) -> None:
        """Start new instances of the model runner and then end the old ones; those that live go on answering meanwhile.

        A plain load of a loaded model does nothing, so the configuration gets a parameter that differs. To unload first
        would leave a gap of seconds. Raises TritonError (the old ones are still there), TritonUnavailable.
        """
        config = await self.model_config(RUNNER)
        config.setdefault("parameters", {})["replaced"] = {"string_value": uuid.uuid4().hex}
        await self._call(self._client.load_model(RUNNER, headers=self._headers, config=json.dumps(config)))

    async def _call(self, call: Awaitable[Any]) -> Any:
        """Raises TritonError, TritonUnavailable."""
        try:
            return await self._answered(call)
        except InferenceServerException as error:
            status = error.status() or ""
            # Without its traceback: a frame of the library in it has the error in a variable. This reference cycle would keep the
            # request's tensors in memory until the garbage collector runs.
            raise TritonError(error.message() or "", int(status) if status.isdecimal() else 500) from error.with_traceback(None)

    async def _answered(self, call: Awaitable[T]) -> T:
        """`await call`. Raises TritonUnavailable, and what the body of a request raises."""
        try:
            return await call
        except _UNANSWERED as error:
            if isinstance(error.__cause__, BioEngineError):
                raise error.__cause__ from None  # of the body: aiohttp wraps it
            raise TritonUnavailable(type(error).__name__) from error
        except RuntimeError as error:  # what aiohttp raises for a session that is closed, as the server's are when it ends
            if not self._is_closed:
                raise
            raise TritonUnavailable(str(error)) from error


def _packed(inputs: Sequence[tuple[str, np.ndarray]]) -> list[triton_http.InferInput]:
    tensors = []
    for name, array in inputs:
        datatype = np_to_triton_dtype(array.dtype)
        assert datatype is not None, array.dtype  # what Triton has none for is refused before it gets here
        tensor = triton_http.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _checked(model_name: str) -> str:
    """`model_name`, which becomes a part of a URL. Raises TritonError."""
    if not is_triton_name(model_name):
        raise TritonError(f"{str(model_name)[:80]!r} is not the name of a model, such as {RUNNER!r}.", 404)
    return model_name
