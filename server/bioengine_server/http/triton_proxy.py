"""`/triton/*`: Triton for the clients of its own protocol, behind an allow-list.

    path -> allowed? -> caller -> counted -> header parsed -> tensors received -> admitted -> loaded -> to Triton, and back

Only health, metadata, configuration and inference are allowed. The header for Triton is written again from the parsed one
(`http.triton_request`), and nothing is sent to Triton before the request is complete and its tensors match the header. Requests
for `bioengine-model-runner` are answered by the dispatcher, as in `execute`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from bioengine_contract import message
from bioengine_contract.errors import BadRequest, BioEngineError
from bioengine_contract.ids import RUNNER, RUNNER_VERSION, TRITON_NAME, TRITON_VERSION
from bioengine_contract.request import RunRequest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bioengine_server.access.caller import Caller
from bioengine_server.access.errors import BadBody, TooLarge
from bioengine_server.aside import aside
from bioengine_server.dispatch.errors import NoSuchModel, RefusedArgument
from bioengine_server.http.body import Rest, chunks
from bioengine_server.http.body_memory import BodyMemory, Take
from bioengine_server.http.callers import caller_of
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.received_body import Received
from bioengine_server.http.route_table import raw_path
from bioengine_server.http.triton_request import MAX_HEADER, MAX_JSON, BadInference, InferRequest, parse
from bioengine_server.http.triton_response import MAX_JSON_RESULT_BYTES, parse_header, with_json
from bioengine_server.http.triton_tensors import counted
from bioengine_server.hypha.authenticator import Authenticator, stranger
from bioengine_server.limits import SizeLimit
from bioengine_server.network.errors import Forbidden
from bioengine_server.service.triton_client import TritonClient, runner_info
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

_PREFIX = "/triton"
# Not `stats`, where Triton has its statistics of all models.
_MODEL = rf"/v2/models/(?!stats(?:/|$))(?P<model>{TRITON_NAME})(/versions/(?P<version>{TRITON_VERSION}))?"
_ALLOWED = [
    ("GET", re.compile(r"/v2"), "server"),
    ("GET", re.compile(r"/v2/health/(live|ready)"), "server"),
    ("GET", re.compile(_MODEL), "metadata"),
    ("GET", re.compile(_MODEL + "/ready"), "ready"),
    ("GET", re.compile(_MODEL + "/config"), "config"),
    ("POST", re.compile(_MODEL + "/infer"), "infer"),
]
_HEADER_LENGTH = "inference-header-content-length"
_EXTENSIONS = frozenset(("sequence", "schedule_policy", "model_configuration", "binary_tensor_data", "parameters"))

_KEPT_HEADERS = ("content-type", "content-length", _HEADER_LENGTH)


class TritonProxy:
    """Answers every path that begins with `/triton`, in any spelling, so that no spelling reaches other routes."""

    path = r"/[/.]*triton(?![\w-])"

    def __init__(self, authenticator: Authenticator, service: TritonClient, memory: BodyMemory, folder: Path) -> None:
        """
        Args:
            authenticator: identifies the caller.
            service: admits requests and loads models.
            memory: the memory for bodies that are not stored in a file.
            folder: the folder for large bodies until they are complete.
        """
        self._memory = memory
        self._authenticator = authenticator
        self._service = service
        self._folder = folder

    @property
    def _api(self) -> TritonApi:
        return self._service.triton

    async def answer(self, request: Request) -> Response:
        body, caller, kind, model = Rest(request.receive), stranger(request.scope), "", ""

        def refuse(error: Exception) -> Response:
            if kind == "infer":
                self._authenticator.access.refusals.tell(error, caller, model)
            return refusal(error)

        try:
            kind, model, version, path = _allowed(request)
            caller = caller_of(request, self._authenticator)
            if path == "/v2":
                return await self._about()
            if kind == "server":
                return _TritonAnswer(await self._api.open("GET", path, None, {}))
            if kind == "infer":
                async with self._authenticator.access.request(caller) as counted:
                    stream = chunks(request.headers, body, self._authenticator.access.size_limit(caller))
                    with self._memory.share() as take:
                        return await self._infer(request, stream, model, version, counted, take)
            config = await self._config(model, version, caller)
            if kind == "config":
                return JSONResponse(config)
            return JSONResponse(_metadata(config)) if kind == "metadata" else Response(status_code=200)
        except BioEngineError as error:
            if not isinstance(error, TooLarge):
                await body.drain(request.headers, self._authenticator.access.largest)
            return refuse(error)
        except Exception as error:
            logger.exception("A request for Triton failed")
            return refuse(error)

    async def _about(self) -> Response:
        """Triton's metadata of itself, without closed extensions, and without the version, which tells its security holes."""
        answer = await self._api.open("GET", "/v2", None, {})
        try:
            about = await answer.json(content_type=None)
        except (ValueError, aiohttp.ClientError):
            about = {}
        finally:
            answer.release()
        about = about if isinstance(about, dict) else {}
        open_here = [name for name in about.get("extensions", []) if name in _EXTENSIONS]
        return JSONResponse({"name": about.get("name", ""), "extensions": open_here, "version": ""}, status_code=answer.status)

    async def _config(self, model: str, version: str, caller: Any) -> dict[str, Any]:
        try:
            config = await self._service.get_config(model, version, context=caller.to_context())
        except RefusedArgument as error:
            raise NoSuchModel(error.advice) from error
        return {key: value for key, value in config.items() if key not in ("server_url", "model_name")}

    async def _infer(
        self, request: Request, stream: AsyncIterator[bytes], model: str, version: str, caller: Caller, take: Take
    ) -> Response:
        header, rest = await _read_header(request, stream, take)
        asked = await aside(len(header), parse, header, _HEADER_LENGTH in request.headers)
        if asked.streamed and len(header) > MAX_HEADER:
            raise BadInference(f"its header has {len(header)} bytes beside binary tensors, expected at most {MAX_HEADER}")
        _check_length(request, asked, len(header), self._authenticator.access.size_limit(caller))
        tensors = counted(_joined(rest, stream), asked.streamed)
        # The whole body is received before the request takes a place of the model, so that slow clients do not delay others.
        if model == RUNNER and version not in ("", RUNNER_VERSION):
            raise NoSuchModel(f"{RUNNER!r} has no version {version}; it has only the version {RUNNER_VERSION}.")
        if model == RUNNER:
            return await self._run(asked, await _run_request(asked, tensors, take), caller)
        with Received(self._folder) as received:
            await received.take(tensors)
            packed, made = asked.header(), asked.from_json
            headers = {
                _HEADER_LENGTH: str(len(packed)),
                "content-type": "application/octet-stream",
                "content-length": str(len(packed) + len(made) + received.size),
            }
            # Triton answers when the model has run; while the response is sent, even slowly, the request needs no place.
            answer = await self._service.forward(model, version, partial(_body, [packed, made], received), headers, caller)
        return await _with_json(answer, asked) if asked.has_json else _TritonAnswer(answer)

    async def _run(self, asked: InferRequest, request: RunRequest, caller: Caller) -> Response:
        """The response to a request for the model runner, which the server itself answers."""
        result = await self._service.run(request, caller)
        content = await aside(message.size(result), _as_bytes_tensor, result)
        output = {"name": "result", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(content)}}
        document = {**runner_info(asked.id), "outputs": [output]}
        if asked.wants_json("result"):
            return Response(with_json(document, content, asked.wants_json)[0], media_type="application/json")
        header = json.dumps(document, separators=(",", ":")).encode()
        headers = {_HEADER_LENGTH: str(len(header))}
        return Response(header + content, media_type="application/octet-stream", headers=headers)


class _TritonAnswer(StreamingResponse):
    """Passes on a response of Triton while it arrives."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        kept = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
        super().__init__(answer.content.iter_chunked(1 << 18), status_code=answer.status, headers=kept)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.release()


async def _with_json(answer: aiohttp.ClientResponse, asked: InferRequest) -> Response:
    """A result of Triton, with outputs as JSON where the client requests it. Raises BadInference, TritonUnavailable."""
    try:
        length = int(answer.headers.get(_HEADER_LENGTH, answer.headers.get("content-length", "")))
        document = parse_header(await answer.content.readexactly(length), asked.wants_json)
        if int(answer.headers.get("content-length", "0")) - length > MAX_JSON_RESULT_BYTES:
            raise BadInference("its result is too large for JSON outputs: request binary_data for all outputs")
        content = await answer.content.read()
    except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, TimeoutError) as error:
        raise TritonUnavailable(type(error).__name__) from error
    finally:
        answer.close() if not answer.content.at_eof() else answer.release()
    header, binary = await aside(len(content), with_json, document, content, asked.wants_json)
    if all(asked.wants_json(output["name"]) for output in document.get("outputs", [])):
        return Response(header, media_type="application/json")
    return Response(header + binary, media_type="application/octet-stream", headers={_HEADER_LENGTH: str(len(header))})


def _allowed(request: Request) -> tuple[str, str, str, str]:
    """Kind, model, version and Triton's path of a request. Raises Forbidden.

    The check uses the original bytes of the path, before it is decoded or normalised.
    """
    raw = raw_path(request.scope)
    path = raw.removeprefix(_PREFIX)
    for method, pattern, kind in _ALLOWED:
        found = pattern.fullmatch(path) if raw.startswith(_PREFIX + "/") else None
        if found and request.method == method:
            groups = found.groupdict()
            return kind, groups.get("model") or "", groups.get("version") or "", path
    raise Forbidden(
        f"{request.method} {raw[:100]}",
        "clients can ask for the health of the server and of models, for metadata and configuration of models, and infer. "
        "Spell the path plainly, such as /triton/v2/models/affable-shark/infer.",
    )


async def _read_header(request: Request, stream: AsyncIterator[bytes], take: Take) -> tuple[bytes, bytes]:
    """The JSON header of an inference request, and the body received after it. Raises BadBody, BodiesTooLarge."""
    given = request.headers.get(_HEADER_LENGTH)
    if given is not None and (not given.isdecimal() or not given.isascii() or len(given) > 18 or int(given) > MAX_JSON):
        raise BadBody(f"Inference-Header-Content-Length is {given[:40]!r}, expected a number up to {MAX_JSON}")
    data = bytearray()
    async for chunk in stream:
        take(len(chunk))
        data += chunk
        if given is not None and len(data) >= int(given):
            break
        if given is None and len(data) > MAX_JSON:
            raise BadBody(f"it is JSON of more than {MAX_JSON // 1_000_000} MB; send tensors as binary data after it")
    length = len(data) if given is None else int(given)
    if len(data) < length:
        raise BadBody(f"it ends within its JSON header, which has {length} bytes, as Inference-Header-Content-Length says")
    return bytes(data[:length]), bytes(data[length:])


def _check_length(request: Request, asked: InferRequest, header: int, limit: SizeLimit) -> None:
    """Check the length of a request against its header before anything is passed on. Raises BadBody, TooLarge.

    If the length is not known in advance, it is checked while the body arrives.
    """
    size = header + sum(segment.size for segment in asked.streamed)
    zipped = request.headers.get("content-encoding", "identity").strip().lower() not in ("identity", "")
    given = request.headers.get("content-length", "")
    if not zipped and given.isdecimal() and int(given) != size:
        raise BadBody(f"it has {given[:20]} bytes, and its header and its tensors, as the header has them, {size}")
    if size > limit.bytes:
        raise TooLarge(size, limit)


async def _run_request(asked: InferRequest, tensors: AsyncIterator[bytes | bytearray], take: Take) -> RunRequest:
    """Read a request for the model runner and decode it. Raises BadInference, BadBody, BodiesTooLarge."""
    if [(tensor.name, tensor.datatype) for tensor in asked.inputs] != [("kwargs", "BYTES")] or asked.inputs[0].segment.texts != 1:
        raise BadInference(f"{RUNNER} takes one input, `kwargs`, of the datatype BYTES with one element")
    for output in asked.outputs:
        if output.name != "result":
            raise BadInference(f"{RUNNER} has only the output `result`, not {shown(output.name)!r}")
    content = bytearray(asked.from_json)
    async for part in tensors:
        take(len(part))
        content += part
    return await aside(len(content), _decoded, content)


def _decoded(content: bytearray) -> RunRequest:
    """Decode the request in a BYTES element. Raises BadBody."""
    try:
        value = message.decode(memoryview(content)[4:])
    except Exception as error:  # decoding a hostile body may raise anything
        raise BadBody("`kwargs` is not a MessagePack of a dict") from error
    try:
        return RunRequest.from_client(value)
    except BadRequest as error:
        raise BadBody(f"`kwargs` is not a dict with model_id and inputs: {str(error).rstrip('.')}") from error


def _as_bytes_tensor(result: dict[str, Any]) -> bytes:
    """A BYTES element that contains a result."""
    data = message.encode(result)
    return len(data).to_bytes(4, "little") + data


async def _joined(first: bytes, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in stream:
        yield chunk


async def _body(first: list[bytes], received: Received) -> AsyncIterator[bytes]:
    for own in filter(None, first):
        yield own
    async for part in received.read():
        yield part


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
