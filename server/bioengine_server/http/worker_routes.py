"""`/workers/*`: where workers dial in (`workers/protocol.py`). A token for workers opens these routes and nothing else, and no
other token opens them, wherever the worker is.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from bioengine_contract.errors import BioEngineError
from bioengine_contract.ids import NAME, WORKER_NAME, PackageKey
from bioengine_contract.manifest import FILE_NAME
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.store import package_of
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bioengine_server.access.errors import BadBody
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.http.body import read
from bioengine_server.http.body_memory import BodyMemory
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.errors import NoSuchPage
from bioengine_server.http.gone import until_gone
from bioengine_server.http.route_table import GET, Entry, raw_path
from bioengine_server.http.stored_file import stored_file
from bioengine_server.hypha.authenticator import bearer
from bioengine_server.limits import SizeLimit
from bioengine_server.settings import Settings
from bioengine_server.workers.link import Given, Link
from bioengine_server.workers.links import Links
from bioengine_server.workers.parcel import MEDIA_TYPE, BadParcel, receive
from bioengine_server.workers.protocol import INSTANCE, LANES, TAKE_TIMEOUT, Beat, Join, Joined

logger = logging.getLogger(__name__)

_WORKER = rf"/workers/(?P<name>{WORKER_NAME})"
_ANSWER = r"/answer/(?P<job>[0-9a-f]{32})"
_FILE = rf"/workers/models/(?P<place>{NAME}/{NAME})/(?P<file>[^?#]{{1,4000}})"
_MAX_JSON = SizeLimit(4 << 20, "a worker may say", "report fewer models")
_MAX_ANSWER = 8 << 30  # bytes, as from a Triton beside the server

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class WorkerRoutes:
    """The routes of one server."""

    def __init__(self, links: Links, dispatcher: Dispatcher, settings: Settings, memory: BodyMemory) -> None:
        """
        Args:
            links: the workers that are joined.
            dispatcher: gives them work.
            settings: of the server.
            memory: for the bodies of answers.
        """
        self._links = links
        self._dispatcher = dispatcher
        self._settings = settings
        self._memory = memory

    def entries(self) -> list[Entry]:
        """For the table of routes. They are open there: who may use them is decided here."""

        def entry(path: str, method: str, handler: Handler, is_encoded: bool = False, takes: bool = False) -> Entry:
            methods = GET if method == "GET" and not takes else (method,)  # HEAD would take a job and lose it
            return Entry(path, methods, self._admitted(handler), is_open=True, is_encoded=is_encoded)

        return [
            entry("/workers", "GET", self._list),
            entry(_WORKER + "/join", "POST", self._join),
            entry(_WORKER + "/beat", "POST", self._beat),
            entry(_WORKER + "/take", "GET", self._take, takes=True),
            entry(_WORKER + _ANSWER, "POST", self._answer),
            entry(_WORKER + "/leave", "POST", self._leave),
            entry(_FILE, "GET", self._file, is_encoded=True),
        ]

    def _admitted(self, handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            try:
                self._links.admit(bearer(request.headers))
                return await handler(request)
            except BioEngineError as error:
                return refusal(error)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except Exception:
                logger.exception("A request of a worker failed")
                return refusal(RuntimeError())

        return answer

    async def _list(self, request: Request) -> Response:
        """What there is to do and who does it, for programs that start and end workers."""
        return JSONResponse(self._dispatcher.workers())

    async def _join(self, request: Request) -> Response:
        link = self._links.join(_part(request, _WORKER + "/join", "name"), await self._said(request, Join))
        return JSONResponse(Joined(instance=link.instance, trusted=self._settings.trusted_models).model_dump())

    async def _beat(self, request: Request) -> Response:
        link = self._link(request, "/beat")
        return JSONResponse(link.beat(await self._said(request, Beat)).model_dump())

    async def _leave(self, request: Request) -> Response:
        self._links.leave(self._link(request, "/leave"))
        return JSONResponse({})

    async def _take(self, request: Request) -> Response:
        link = self._link(request, "/take")
        lane = next((lane for lane in LANES if lane == request.query_params.get("lane")), LANES[0])
        taking = asyncio.ensure_future(link.take(lane, TAKE_TIMEOUT))
        gone = asyncio.ensure_future(until_gone(request))
        try:
            await asyncio.wait({taking, gone}, return_when=asyncio.FIRST_COMPLETED)
            given = taking.result() if taking.done() else None
            if given is not None and gone.done():
                link.give_back(given)
                given = None
        finally:
            taking.cancel()
            gone.cancel()
        if given is None:
            return Response(status_code=204)
        try:
            return _Handover(link, given)
        except Exception as error:  # such as for want of memory: it cannot be sent, to this worker or to another one
            given.fail(error)
            raise

    async def _answer(self, request: Request) -> Response:
        link = self._link(request, _ANSWER)
        with self._memory.share() as take:
            try:
                parcel = await receive(request.stream(), _MAX_ANSWER, take)
            except BadParcel as error:
                raise BadBody(str(error)) from None
            wanted = link.deliver(_part(request, _WORKER + _ANSWER, "job"), parcel)
        return JSONResponse({"wanted": wanted})

    async def _file(self, request: Request) -> Response:
        """A file of a stored package, whole or from some byte on."""
        file = await asyncio.to_thread(self._find, request.scope)
        if file is None:
            raise NoSuchPage(request.url.path)
        return FileResponse(file, media_type="application/octet-stream")

    def _find(self, scope: Scope) -> Path | None:
        found = re.fullmatch(_FILE, raw_path(scope))
        key = PackageKey.parse(found["place"]) if found else None
        if found is None or key is None:
            return None
        try:
            package = package_of(self._settings.store, key)
            return stored_file(package.folder, found["file"], {FILE_NAME, *package.manifest.stored_files})
        except (PackageUnreadable, OSError, ValueError):
            return None

    def _link(self, request: Request, rest: str) -> Link:
        """Raises NotJoined."""
        return self._links.find(_part(request, _WORKER + rest, "name"), request.headers.get(INSTANCE))

    async def _said(self, request: Request, kind: type[M]) -> M:
        """Raises BadBody, TooLarge."""
        with self._memory.share() as take:
            body = await read(request.headers, request.receive, _MAX_JSON, take)
        try:
            return kind.model_validate_json(bytes(body))
        except ValidationError as error:
            first = error.errors()[0]
            raise BadBody(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None


class _Handover(StreamingResponse):
    """A job on its way to its worker."""

    def __init__(self, link: Link, given: Given) -> None:
        size, parts = given.parcel.parts()

        async def each() -> AsyncIterator[bytes | memoryview]:
            for part in parts:
                yield part

        parcel = {"content-length": str(size), "x-bioengine-job": given.id}
        super().__init__(each(), media_type=MEDIA_TYPE, headers=parcel)
        self._link = link
        self._given = given

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except BaseException:
            self._link.give_back(self._given)
            raise
        self._given.handed_over = time.monotonic()


def _part(request: Request, path: str, name: str) -> str:
    """A part of the path of a request, which the table of routes has matched."""
    found = re.fullmatch(path, raw_path(request.scope))
    assert found is not None
    return found[name]
