"""`triton-client` over plain HTTP: `/public/services/triton-client/{execute,get_config,get_status,cancel}`.

It replaces Hypha's own routes, which have no limits and answer wrong arguments with 500. Arguments are MessagePack or JSON,
perhaps gzipped, or, for GET, the query; the response has the type of the request. Arrays are
`{"_rtype": "ndarray", "_rvalue": bytes, "_rshape", "_rdtype"}`; in JSON `_rvalue` is base64.
"""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgpack
from bioengine_contract import message
from bioengine_contract.errors import BioEngineError
from bioengine_contract.msgpack_scan import MAX_VALUES
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bioengine_server.access.errors import BadBody, TooLarge
from bioengine_server.aside import aside
from bioengine_server.http.body import Rest, read
from bioengine_server.http.body_memory import BodyMemory, Take
from bioengine_server.http.callers import caller_of
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.gone import connected
from bioengine_server.http.route_table import GET
from bioengine_server.hypha.authenticator import Authenticator, stranger
from bioengine_server.limits import SizeLimit
from bioengine_server.service.refused_calls import asked_model
from bioengine_server.service.triton_client import TritonClient

logger = logging.getLogger(__name__)

_MSGPACK, _JSON = "application/msgpack", "application/json"
SERVICES = "/public/services"
_MAX_JSON = SizeLimit(64_000_000, "a request in JSON may have", f"send MessagePack, with the Content-Type {_MSGPACK}")
_MAX_DIGITS = 1000

T = TypeVar("T")
_EXPECTED = 'send one object that has the arguments by name, such as {"model_name": "bioengine-model-runner", "inputs": []}'


def services_list(app: FastAPI) -> Callable[[Request], Any]:
    """Serve the list of public services also under the path that Hypha would redirect."""

    class SameList(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await app.router({**scope, "path": f"{SERVICES}/", "raw_path": f"{SERVICES}/".encode()}, receive, send)

    async def answer(_: Request) -> Response:
        return SameList()

    return answer


class ServiceCalls:
    """Answers calls of the service's methods."""

    def __init__(self, authenticator: Authenticator, service: TritonClient, memory: BodyMemory) -> None:
        """
        Args:
            authenticator: identifies the caller.
            service: the service to call.
            memory: the memory for bodies.
        """
        self._authenticator = authenticator
        self._service = service
        self._memory = memory

    async def execute(self, request: Request) -> Response:
        return await self._call(self._service.execute, request, runs_model=True)

    async def get_config(self, request: Request) -> Response:
        return await self._call(self._service.get_config, request)

    async def get_status(self, request: Request) -> Response:
        return await self._call(self._service.get_status, request)

    async def cancel(self, request: Request) -> Response:
        return await self._call(self._service.cancel, request)

    async def _call(self, method: Callable[..., Any], request: Request, runs_model: bool = False) -> Response:
        caller, arguments = stranger(request.scope), dict[str, Any]()

        def refuse(error: Exception) -> Response:
            if runs_model:
                self._authenticator.access.refusals.tell(error, caller, asked_model(arguments))
            return refusal(error)

        kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
        body, access = Rest(request.receive), self._authenticator.access
        try:
            # The request is counted from here on, so that a caller with one allowed request cannot send two bodies at once.
            caller = caller_of(request, self._authenticator)
            async with access.request(caller) as caller:
                with self._memory.share() as take:
                    arguments = await _arguments(request, body, kind, access.size_limit(caller), take)
                    with connected(request) as is_connected:
                        context = replace(caller, connected=is_connected).to_context()
                        result = await method(**arguments, context=context)
                        return await aside(message.size(result), _answer, result, kind)
        except (BioEngineError, TypeError) as error:
            if not isinstance(error, TooLarge):
                await body.drain(request.headers, access.largest)
            return refuse(error)
        except Exception as error:
            logger.exception("A call over HTTP failed")
            return refuse(error)


async def _arguments(request: Request, rest: Rest, kind: str, limit: SizeLimit, take: Take) -> dict[str, Any]:
    """The keyword arguments in a request. Raises BadBody, TooLarge, BodiesTooLarge."""
    if kind == _JSON and limit.bytes > _MAX_JSON.bytes:
        limit = _MAX_JSON
    body = await read(request.headers, rest, limit, take)
    if request.method in GET:
        return {key: value for key, value in request.query_params.items() if key != "context"}
    try:
        if not body:
            arguments: Any = {}
        elif kind == _MSGPACK:
            arguments = await aside(len(body), message.decode, memoryview(body))
        elif kind == _JSON:
            arguments = await aside(len(body), _json, body)
        else:
            raise BadBody(f"its Content-Type is {kind[:40]!r}, expected {_MSGPACK} or {_JSON}")
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error)[:200] or type(error).__name__
        raise BadBody(f"it cannot be read as {kind} ({reason}); {_EXPECTED}") from error
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise BadBody(f"it is not an object with arguments; {_EXPECTED}")
    return {key: value for key, value in arguments.items() if key != "context"}


def _answer(result: Any, kind: str) -> Response:
    if kind == _MSGPACK:
        return Response(message.encode(result), media_type=_MSGPACK)
    return Response(json.dumps(_finite(result), default=_to_json, allow_nan=False), media_type=_JSON)


def _json(body: bytearray) -> Any:
    """Decode a JSON body, unless it would take many times its size in memory. Raises ValueError, and what `_from_json` raises."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values; send numbers as arrays")
    return json.loads(body, object_hook=_from_json, parse_int=_whole)


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _from_json(value: dict[str, Any]) -> Any:
    if value.get("_rtype") == "ndarray" and isinstance(value.get("_rvalue"), str):
        value = {**value, "_rvalue": base64.b64decode(value["_rvalue"], validate=True)}
    return message.restore(value)


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON lacks and a model's output may contain."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, (bytes, memoryview)) else message.represent(value)
