"""The route for imjoy-rpc clients: `/ws` with `client_id=` in the query string.

Hypha 0.20 and later close such connections, and accept only those of hypha-rpc, which identify themselves in a first message.
This route comes before Hypha's, matches only imjoy-rpc's connections, and implements their protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs

from bioengine_contract.errors import BioEngineError
from fastapi import FastAPI
from hypha.core import UserInfo, UserPermission
from hypha.core.auth import create_scope, generate_anonymous_user, update_user_scope
from hypha.core.store import RedisStore
from starlette.routing import Match, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from bioengine_server.access.caller import Caller
from bioengine_server.access.errors import AccessDenied, NotLetIn, TooManyHandshakes, WorkspaceDenied
from bioengine_server.dispatch.errors import Stopping
from bioengine_server.gateway.clients import Client, Clients, end_of_last
from bioengine_server.gateway.local import LocalServices
from bioengine_server.gateway.refusal import answer_with
from bioengine_server.gateway.rpc import LegacyRPC, use_offered_names
from bioengine_server.gateway.session import LegacySession
from bioengine_server.hypha.authenticator import Authenticator, is_legacy, stranger
from bioengine_server.hypha.envelope import NotAMessage
from bioengine_server.limits import SizeLimit
from bioengine_server.log_once import Once
from bioengine_server.untrusted import quoted

logger = logging.getLogger(__name__)
_once = Once()

_PATH = "/ws"

# How long a client may be silent after it has connected; its library asks for the services at once.
_FIRST_WORD = 15.0  # seconds

# How many connections may be opened to Hypha at once: each needs several of the few Redis connections.
_AT_ONCE = 50
_WAIT = 30.0  # seconds that a connection may wait for its turn

# After this time, the answers to callers of a disconnected client have been sent.
_LAST_WORDS = 0.05  # seconds

# When the server stops, how long to wait for clients to reconnect and be refused.
_FAREWELL = 1.0  # seconds


class LegacyRoute(WebSocketRoute):
    """Matches only legacy connections."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "websocket" and not is_legacy(scope):
            return Match.NONE, {}
        return super().matches(scope)


class LegacyGateway:
    """Accepts imjoy-rpc clients on `/ws`. `local`: the services that they call directly."""

    def __init__(self, app: FastAPI, store: Callable[[], RedisStore], authenticator: Authenticator) -> None:
        """
        Args:
            app: Hypha's application.
            store: returns Hypha's store.
            authenticator: decides who may connect.

        Raises LibraryChanged.
        """
        use_offered_names()
        self.local = LocalServices()
        self._store = store
        self._authenticator = authenticator
        self._clients = Clients(lambda workspace, client_id: store().get_event_bus().is_local_client(workspace, client_id))
        self._open: set[WebSocket] = set()
        self._refused: set[str] | None = None
        self._turns = asyncio.Semaphore(_AT_ONCE)
        app.router.routes.insert(0, LegacyRoute(_PATH, self._serve))

    async def stop(self) -> None:
        """Disconnect every client in a way that its library notices.

        A client that loses its connection reconnects at once. If no server listens then, imjoy-rpc 0.5 waits forever, also in
        every later call; if it is refused, it raises an error. So clients are refused before the server stops listening.
        """
        self._refused = set()
        # Web pages do not reconnect.
        leaving = {str(websocket.query_params["client_id"]) for websocket in self._open if not _is_page(websocket)}
        for websocket in list(self._open):
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.close(code=1001, reason="The server is being stopped.")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                while not leaving <= self._refused:
                    await asyncio.sleep(0.02)

    async def _serve(self, websocket: WebSocket) -> None:
        query = {key: values[-1] for key, values in parse_qs(websocket.url.query).items()}
        client_id = query.get("client_id", "")
        try:
            if self._refused is not None:
                self._refused.add(client_id)
                raise Stopping
            if not _is_client_id(client_id):
                raise PermissionError("the client_id is not one")
            user = self._authenticator.admit(websocket.scope, query.get("reconnection_token") or query.get("token"))
            token_scope = user.scope if user is not None and "reconnection_token" in query else None
            async with self._turn():
                user, workspace = await _in_workspace(self._store(), user, query)
            client = Client(workspace, client_id, user.id, is_new=not _is_bound(token_scope, workspace, client_id))
            await self._clients.enter(client)
        except Exception as error:
            if not self._tell(error, websocket.scope) and _once.allows(str(error)):
                logger.info("Refused a legacy client: %s", error)
            await _refuse(websocket, client_id, error, is_new="reconnection_token" not in query)
            return
        try:
            await websocket.accept()
            self._open.add(websocket)
            await self._talk(websocket, user, client)
        except TooManyHandshakes:
            await _close(websocket)
        finally:
            self._clients.leave(client)
            self._open.discard(websocket)

    def _tell(self, error: Exception, scope: Scope) -> bool:
        """Tell of a client that is refused by an error of ours; returns whether anybody listens."""
        if not isinstance(error, BioEngineError) or isinstance(error, Stopping):
            return False
        return self._authenticator.access.refusals.tell(error, stranger(scope))

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a turn to open a connection to Hypha. Raises TooManyHandshakes."""
        try:
            async with asyncio.timeout(_WAIT):
                await self._turns.acquire()
        except TimeoutError as error:
            raise TooManyHandshakes from error
        try:
            yield
        finally:
            self._turns.release()

    async def _talk(self, websocket: WebSocket, user: UserInfo, client: Client) -> None:
        """Serve one connection until it ends."""
        connection = _Connection(websocket)
        data = user.model_dump(mode="json")
        access = self._authenticator.access
        caller = Caller.from_context({"user": data, "ws": client.workspace, "from": client.client_id})
        limit, too_large = access.size_limit(caller), lambda error: access.refusals.tell(error, caller)
        rpc = LegacyRPC(connection, client.workspace, client.client_id, data, limit, too_large)
        died: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        try:
            with self._authenticator.connected(user, died.set_result):
                listening = await self._serve_calls(connection, rpc, user, client, died)
                if client.replaced_by.done() and not died.done():
                    await _stay_silent(listening, client, died)
        finally:
            if not died.done():
                await rpc.disconnect()
        if died.done():
            await answer_with(died.result(), rpc, listening)
            await _close(websocket)
        else:
            listening.cancel()
            await _close(websocket, code=1000)

    async def _serve_calls(
        self, connection: _Connection, rpc: LegacyRPC, user: UserInfo, client: Client, died: asyncio.Future[Exception]
    ) -> asyncio.Future[None]:
        """Connect to Hypha in the client's name, until it disconnects, is refused, or reconnects.

        Returns a task that ends when the client disconnects.
        """
        store = self._store()
        async with contextlib.AsyncExitStack() as life:
            life.callback(self._clients.leave, client)
            life.push_async_callback(_forget, store, user, client)
            # Not silent, because Hypha only accepts services of clients that it knows.
            interface = store.get_workspace_interface(user, client.workspace, client_id=client.client_id, silent=False)
            async with self._turn():
                hypha = await life.enter_async_context(interface)
            session = LegacySession(rpc, hypha, store, self.local, user, client)
            client.answers = rpc.answers
            listening = asyncio.ensure_future(connection.listen())
            try:
                ends: set[asyncio.Future[Any]] = {listening, died, client.replaced_by}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if listening.done():
                    listening.result()
            except BaseException:
                listening.cancel()
                raise
            finally:
                session.end()
                if rpc.end_calls(has_left=listening.done()):
                    await asyncio.sleep(_LAST_WORDS)
        return listening


async def _stay_silent(listening: asyncio.Future[None], client: Client, died: asyncio.Future[Exception]) -> None:
    """Keep a connection open that a newer one of the same client has replaced, until the newer one has ended.

    imjoy-rpc may open two at once, and opens another for each that is closed, which would in turn replace the newer one.
    """
    last = asyncio.ensure_future(end_of_last(client))
    try:
        ends: set[asyncio.Future[Any]] = {listening, died, last}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        last.cancel()


async def _forget(store: RedisStore, user: UserInfo, client: Client) -> None:
    """Remove a disconnected client from Hypha: its services are no longer found, and waiting calls of them fail."""
    try:
        await store.remove_client(client.client_id, client.workspace, user, unload=True)
    except Exception as error:
        logger.warning("Hypha still lists %s, which has disconnected: %s", client.name, error)


async def refuse_page(error: BioEngineError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse the connection of a web page: each of its calls is answered with the reason."""
    websocket = WebSocket(scope, receive, send)
    client_id = websocket.query_params.get("client_id", "")
    if _is_client_id(client_id):
        await _refuse(websocket, client_id, error, is_new=True)
    else:
        await _close(websocket)


def _is_client_id(name: str) -> bool:
    return name.replace("-", "").replace("_", "").isalnum() and len(name) <= 128


def _is_bound(scope: Any, workspace: str, client_id: str) -> bool:
    """Whether a token was made for this client alone, as are the tokens with which clients reconnect."""
    return scope is not None and (scope.current_workspace, scope.client_id) == (workspace, client_id)


def _is_page(websocket: WebSocket) -> bool:
    return "origin" in websocket.headers


async def _refuse(websocket: WebSocket, client_id: str, error: Exception, is_new: bool) -> None:
    if (_is_page(websocket) or is_new) and not isinstance(error, Stopping):
        await websocket.accept()
        told = error if isinstance(error, BioEngineError) and not isinstance(error, AccessDenied) else NotLetIn()
        connection = _Connection(websocket)
        rpc = LegacyRPC(connection, "public", client_id, user={}, limit=SizeLimit(0))
        await answer_with(told, rpc, connection.listen())
    # Other clients are refused before the websocket is accepted: their library sees HTTP 403, and does not retry forever.
    await _close(websocket)


async def _close(websocket: WebSocket, code: int = 1008) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client has disconnected
        await websocket.close(code=code)


async def _in_workspace(store: RedisStore, user: UserInfo | None, query: dict[str, str]) -> tuple[UserInfo, str]:
    """The user and the workspace of a connection; without a token, a new anonymous user.

    Raises whatever Hypha raises for a bad workspace.
    """
    asked = query.get("workspace")
    if user is not None:
        assert user.scope is not None  # the user of a token has a workspace
        own = user.get_workspace()
        workspace = user.scope.current_workspace or asked or own
        if asked and user.check_permission(asked, UserPermission.read):
            workspace = asked
    else:
        user = generate_anonymous_user()
        own = user.get_workspace()
        workspace = asked or own
        user.scope = create_scope(current_workspace=workspace, workspaces={own: UserPermission.admin})
    # Hypha would create any workspace that is named, before it checks whose it is.
    if workspace != own and not user.check_permission(workspace, UserPermission.read):
        raise WorkspaceDenied(workspace)
    info = await store.load_or_create_workspace(user, workspace)
    user.scope = update_user_scope(user, info)
    if not user.check_permission(info.id, UserPermission.read):
        raise PermissionError(f"no permission for the workspace {quoted(workspace)}")
    return user, str(info.id)


class _Connection:
    """Wraps a websocket with the interface that imjoy-rpc's RPC class expects."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._handle: Callable[[bytes], Any] | None = None

    def on_message(self, handler: Callable[[bytes], Any]) -> None:
        self._handle = handler

    async def emit_message(self, data: bytes) -> None:
        await self._websocket.send_bytes(data)

    async def listen(self) -> None:
        """Pass on frames until the client disconnects. An invalid frame, or none at the beginning, ends the connection."""
        assert self._handle is not None
        patience: float | None = _FIRST_WORD
        while True:
            try:
                async with asyncio.timeout(patience):
                    data = await self._websocket.receive_bytes()
            except TimeoutError:
                await _close(self._websocket)
                return
            except (WebSocketDisconnect, RuntimeError, KeyError):
                return
            patience = None
            try:
                self._handle(data)
            except Exception as error:
                if _once.allows(type(error).__name__):
                    logger.warning("A legacy client sent a frame that cannot be read (%s)", type(error).__name__)
                reason = str(error) if isinstance(error, NotAMessage) else "The frame cannot be read."
                await self._websocket.close(code=1003, reason=reason.encode()[:120].decode(errors="ignore"))
                return
            await asyncio.sleep(0)
