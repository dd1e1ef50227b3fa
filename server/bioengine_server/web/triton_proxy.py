"""`/triton/*`: Triton for the clients of its own protocol, behind an allow-list.

    path -> allowed? -> caller -> counted -> header of the body read -> admitted -> loaded -> streamed to Triton, and back

Health, metadata, configuration and inference; nothing else. What shares memory or files with Triton is refused in the JSON
header of a request, and the header that Triton gets is the one that was read here, written anew, so that no two readings of it
can differ.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from bioengine_server.access.door import Doorkeeper
from bioengine_server.errors import BadBody, BioEngineError, Forbidden, NoSuchModel, RefusedArgument, TooLarge
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.triton import message
from bioengine_server.triton.api import ROUTER, TritonApi
from bioengine_server.web.answers import refusal
from bioengine_server.web.body import Rest, chunks
from bioengine_server.web.callers import caller_of

logger = logging.getLogger(__name__)

_PREFIX = "/triton"
# Not `stats`, where Triton has its statistics of all models.
_MODEL = r"/v2/models/(?!stats(?:/|$))(?P<model>[A-Za-z0-9][A-Za-z0-9._-]{0,199})(/versions/(?P<version>[0-9]{1,18}))?"
_ALLOWED = [
    ("GET", re.compile(r"/v2"), "server"),
    ("GET", re.compile(r"/v2/health/(live|ready)"), "server"),
    ("GET", re.compile(_MODEL), "metadata"),
    ("GET", re.compile(_MODEL + "/ready"), "ready"),
    ("GET", re.compile(_MODEL + "/config"), "config"),
    ("POST", re.compile(_MODEL + "/infer"), "infer"),
]
_HEADER_LENGTH = "inference-header-content-length"
_MOST_HEADER = 64_000_000  # bytes of JSON, which are unpacked here
_EXPECTED = "send what Triton's inference protocol has, as tritonclient does"

# What a request may ask of Triton beside its tensors; shared memory is among the rest.
_PARAMETERS = {
    "binary_data",
    "binary_data_output",
    "binary_data_size",
    "classification",
    "priority",
    "sequence_end",
    "sequence_id",
    "sequence_start",
    "timeout",
}
_KEPT_HEADERS = ("content-type", "content-length", _HEADER_LENGTH)


class TritonProxyRoute(Route):
    """Takes every path that begins with `/triton`, in whatever spelling, so that nothing slips past to other routes."""

    def __init__(self, keeper: Doorkeeper, service: TritonClient) -> None:
        """
        Args:
            keeper: says who asks.
            service: admits requests and loads models.
        """
        super().__init__(_PREFIX, _Proxy(keeper, service).answer, include_in_schema=False)
        self.methods = None  # every one comes here, to be refused with a reason

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and re.match(r"/[/.]*triton(?![\w-])", scope["path"], re.IGNORECASE):
            return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}
        return Match.NONE, {}


class _Proxy:
    def __init__(self, keeper: Doorkeeper, service: TritonClient) -> None:
        self._keeper = keeper
        self._service = service

    @property
    def _api(self) -> TritonApi:
        return self._service.triton

    async def answer(self, request: Request) -> Response:
        body = Rest(request.receive)
        try:
            kind, model, version, path = _allowed(request)
            caller = caller_of(request, self._keeper)
            if path == "/v2":
                return await self._about()
            if kind == "server":
                return _TritonAnswer(await self._api.open("GET", path, None, {}))
            if kind == "infer":
                async with self._keeper.access.request(caller) as counted:
                    stream = chunks(request.headers, body, self._keeper.access.size_limit(caller))
                    return await self._infer(request, stream, model, version, counted)
            config = await self._config(model, version, caller)
            if kind == "config":
                return JSONResponse(config)
            return JSONResponse(_metadata(config)) if kind == "metadata" else Response(status_code=200)
        except BioEngineError as error:
            if not isinstance(error, TooLarge):
                await body.drain(request.headers, self._keeper.access.largest)
            return refusal(error)
        except Exception:
            logger.exception("A request for Triton failed")
            return refusal(RuntimeError())

    async def _about(self) -> Response:
        """Triton's metadata of itself, without its version, which says which holes it has."""
        answer = await self._api.open("GET", "/v2", None, {})
        try:
            about = await answer.json(content_type=None)
        except (ValueError, aiohttp.ClientError):
            about = {}
        finally:
            answer.release()
        known = {key: about[key] for key in ("name", "extensions") if key in about} if isinstance(about, dict) else {}
        return JSONResponse({**known, "version": ""}, status_code=answer.status)

    async def _config(self, model: str, version: str, caller: Any) -> dict[str, Any]:
        try:
            config = await self._service.get_config(model, version, context=caller.to_context())
        except RefusedArgument as error:
            raise NoSuchModel(error.advice) from error
        return {key: value for key, value in config.items() if key not in ("server_url", "model_name")}

    async def _infer(self, request: Request, stream: AsyncIterator[bytes], model: str, version: str, caller: Any) -> Response:
        header, rest = await _read_header(request, stream)
        checked = json.dumps(_checked(header)).encode()
        asked: Any = None
        if model == ROUTER:
            # The model that it is about is in the body: all of it is read, to admit it as any other request.
            content = bytearray(rest)
            async for chunk in stream:
                content += chunk
            asked, rest = _model_in(memoryview(content)), content
        suffix = f"/versions/{version}" if version else ""
        headers = {_HEADER_LENGTH: str(len(checked)), "content-type": "application/octet-stream"}
        async with self._service.admit_for_triton(model, asked, caller) as name:
            # Triton answers when the model has run; to send the answer, however slowly it is read, takes no place.
            path = f"/v2/models/{name}{suffix}/infer"
            return _TritonAnswer(await self._api.open("POST", path, _joined(checked, rest, stream), headers))


class _TritonAnswer(StreamingResponse):
    """An answer of Triton, passed on as it comes."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        kept = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
        super().__init__(answer.content.iter_chunked(1 << 18), status_code=answer.status, headers=kept)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.release()


def _allowed(request: Request) -> tuple[str, str, str, str]:
    """Kind, model, version and Triton's path of a request. Raises Forbidden.

    Judged by the bytes that came, before anything is decoded or made shorter.
    """
    raw = request.scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
    path = raw.removeprefix(_PREFIX)
    for method, pattern, kind in _ALLOWED:
        found = pattern.fullmatch(path) if raw.startswith(_PREFIX + "/") else None
        if found and request.method == method:
            groups = found.groupdict()
            return kind, groups.get("model") or "", groups.get("version") or "", path
    raise Forbidden(
        f"{request.method} {raw[:100]}",
        "here clients can ask for the health of the server and of models, for metadata and configuration of models, and infer. "
        "Spell the path plainly, such as /triton/v2/models/affable-shark/infer.",
    )


async def _read_header(request: Request, stream: AsyncIterator[bytes]) -> tuple[dict[str, Any], bytes | bytearray]:
    """The JSON header of an inference request, and what came of the body after it. Raises BadBody."""
    given = request.headers.get(_HEADER_LENGTH)
    if given is not None and (not given.isdecimal() or int(given) > _MOST_HEADER):
        raise BadBody(f"Inference-Header-Content-Length is {given[:40]!r}, expected a number up to {_MOST_HEADER}")
    data = bytearray()
    async for chunk in stream:
        data += chunk
        if given is not None and len(data) >= int(given):
            break
        if given is None and len(data) > _MOST_HEADER:
            raise BadBody(f"it is JSON of more than {_MOST_HEADER // 1_000_000} MB; send tensors as binary data after it")
    length = len(data) if given is None else int(given)
    if len(data) < length:
        raise BadBody(f"it ends within its JSON header, which has {length} bytes, as Inference-Header-Content-Length says")
    try:
        header = json.loads(bytes(data[:length]))
    except (ValueError, RecursionError) as error:
        raise BadBody(f"its header is not JSON; {_EXPECTED}") from error
    if not isinstance(header, dict):
        raise BadBody(f"its header is not a JSON object; {_EXPECTED}")
    return header, bytes(data[length:])


def _checked(header: dict[str, Any]) -> dict[str, Any]:
    """The header, if all of its parameters are known ones. Raises Forbidden, BadBody."""
    tensors: list[Any] = []
    for key in ("inputs", "outputs"):
        items = header.get(key, [])
        if not isinstance(items, list):
            raise BadBody(f"its {key} are not a list")
        tensors += items
    for item in [header, *tensors]:
        parameters = item.get("parameters", {}) if isinstance(item, dict) else None
        if not isinstance(parameters, dict):
            raise BadBody("an input, output or parameters is not an object")
        if refused := sorted(set(parameters) - _PARAMETERS):
            raise Forbidden(
                f"The parameter {refused[0][:60]!r}", "send tensors in the request; memory is not shared with clients."
            )
    return header


def _model_in(content: memoryview) -> Any:
    """The model id within a request of the router: BYTES, a length of four bytes before them. Raises BadBody."""
    try:
        request = message.decode(content[4 : 4 + int.from_bytes(content[:4], "little")])
    except Exception as error:  # whatever MessagePack makes of a hostile body
        raise BadBody("`kwargs` is not a MessagePack of a dict") from error
    if not isinstance(request, dict) or "operation" in request:
        raise BadBody("`kwargs` is not a dict with model_id and inputs")
    return request.get("model_id")


async def _joined(header: bytes, rest: bytes | bytearray, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes | bytearray]:
    yield header
    yield rest
    async for chunk in stream:
        yield chunk


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    """Triton's metadata of a model, from its configuration."""

    def tensors(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        batch = [-1] if config.get("max_batch_size") else []
        names = {"TYPE_STRING": "BYTES"}
        return [
            {
                "name": spec["name"],
                "datatype": names.get(spec["data_type"], spec["data_type"].removeprefix("TYPE_")),
                "shape": [*batch, *(int(size) for size in spec["dims"])],
            }
            for spec in specs
        ]

    return {
        "name": config["name"],
        "versions": ["1"],
        "platform": config.get("backend", ""),
        "inputs": tensors(config["input"]),
        "outputs": tensors(config["output"]),
    }
