"""The server's endpoint of one legacy connection: imjoy-rpc's own RPC class, with checks of what a client may send."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgpack
import shortuuid

from bioengine_server.access.errors import TooLarge
from bioengine_server.foreign import imjoy_rpc
from bioengine_server.foreign.imjoy_rpc import CHUNK_SIZE
from bioengine_server.gateway.errors import ClientLeft
from bioengine_server.gateway.wrap import caller
from bioengine_server.hypha import chunks, envelope, function_names
from bioengine_server.hypha.rpc_limits import bare_errors, check_arrays, told_error, without_context
from bioengine_server.hypha.uploads import Uploads
from bioengine_server.limits import SizeLimit

logger = logging.getLogger(__name__)

MANAGER_ID = "workspace-manager"

_PING_PATIENCE = 3.0  # seconds

# How many chunks may be sent before one is answered; the library itself waits for the answer to each one.
_CHUNKS_IN_FLIGHT = 8

# Size of an answer's chunks. Clients accept frames of 1,024,000 bytes, and copy all that they have received for each chunk.
_ANSWER_CHUNK_SIZE = 1_000_000  # bytes

_METHOD_TIMEOUT = 3600  # seconds


def use_offered_names() -> None:
    """Make every endpoint of imjoy-rpc find only functions that were offered. Raises LibraryChanged."""
    imjoy_rpc.check()
    imjoy_rpc.use_lookup(function_names.find)
    imjoy_rpc.mend_promises()
    imjoy_rpc.silence()


class LegacyRPC(imjoy_rpc.End):
    """The RPC endpoint for one client: errors without tracebacks, fast chunks, senders that cannot be forged."""

    def __init__(
        self,
        connection: Any,
        workspace: str,
        client_id: str,
        user: dict[str, Any],
        limit: SizeLimit,
        too_large: Callable[[TooLarge], object] = lambda error: None,
    ) -> None:
        """
        Args:
            connection: has `emit_message(bytes)` and `on_message(handler)`.
            workspace: the client's workspace.
            client_id: the client's id.
            user: the user, in the form of Hypha's contexts.
            limit: the size limit of all unfinished requests of the client.
            too_large: told of requests above the limit.
        """
        self._sender = f"{workspace}/{client_id}"
        self._user = user
        self._limit = limit
        self._too_large = too_large
        self._uploads = Uploads(self._forget)
        self._find_service: Callable[[str], Awaitable[None]] | None = None
        self._finding: set[asyncio.Future[None]] = set()
        self._refusal: Exception | None = None
        self._has_left = False
        super().__init__(connection, client_id=MANAGER_ID, workspace=workspace, method_timeout=_METHOD_TIMEOUT)
        # A service that is registered here would be among the server's own; clients register theirs through the manager.
        del self.services["built-in"]["register_service"]
        check_arrays(self)
        bare_errors(self)
        self._send_frame = connection.emit_message
        self.send_with(self._emit_with_user)

    def on_unknown_service(self, find: Callable[[str], Awaitable[None]]) -> None:
        """Call `find(service id)` before a method of an unknown service is looked up.

        After a reconnection, a client keeps using the methods that it got from the previous connection.
        """
        self._find_service = find

    def drop_service(self, id: str) -> None:
        """Forget a service. If the client still calls it, it is looked up like any unknown service."""
        self.services.pop(id, None)

    def refuse_with(self, reason: Exception) -> None:
        """Answer every call with `reason` from now on."""

        def refuse(*_: Any, **__: Any) -> None:
            raise reason

        self._refusal = reason
        self.add_service({"id": "built-in", "config": {"visibility": "public"}, "refuse": refuse}, overwrite=True)

    async def _emit_with_user(self, frame: bytes) -> None:
        """Add a user to the main part, as old Hypha servers did: clients refuse chunks without one.

        Functions with `require_context` get the caller's user and, as with newer servers, its workspace.
        """
        if self._has_left:
            raise ClientLeft(self._sender)
        unpacker = msgpack.Unpacker(max_buffer_size=CHUNK_SIZE * 2)
        unpacker.feed(frame)
        main = self._with_user(unpacker.unpack())
        await self._send_frame(msgpack.packb(main) + frame[unpacker.tell() :])

    def _with_user(self, main: dict[str, Any]) -> dict[str, Any]:
        context = caller.get() or {}
        return {**main, "user": context.get("user") or self._user, "ws": context.get("ws") or self.workspace}

    def take_frame(self, frame: bytes) -> None:
        """Handle a frame of the client. Raises NotAMessage."""
        try:
            self._take(envelope.checked(frame, self._sender))
        except envelope.MessageRefused as error:
            logger.info("A message of %s was refused", self._sender)
            answer = envelope.refusal(error, self._sender, MANAGER_ID)
            told = asyncio.ensure_future(self.send(answer))
            self._finding.add(told)
            told.add_done_callback(self._sent)
            self._fail_call(error)

    def _sent(self, told: asyncio.Future[None]) -> None:
        self._finding.discard(told)
        if not told.cancelled():
            told.exception()  # a client that has disconnected gets no refusal

    def _fail_call(self, error: envelope.MessageRefused) -> None:
        """If a refused message is an answer, make the call that waits for it fail."""
        if (told := envelope.instead(error)) is not None:
            self._take(envelope.checked(told, self._sender))

    def _take(self, message: envelope.Message) -> None:
        """Handle a message, marked as from this client and to this endpoint."""
        main = {**message.main, "from": self._sender, "to": f"{self.workspace}/{MANAGER_ID}", "user": self._user}
        if "parent" in main and not self._is_session(main["parent"]):
            del main["parent"]
        data = {**main, "ctx": {**main, **self.default_context}, **message.body}
        without_context(data)
        self.fire(data)

    def _is_session(self, name: str) -> bool:
        """Whether a session of this endpoint is open; otherwise the library would create one with that name."""
        try:
            return isinstance(function_names.find(self.sessions, name), dict)
        except KeyError:
            return False

    def handle_call(self, message: dict[str, Any]) -> None:
        method = str(message.get("method", "")).split(".")
        if self._refusal is not None and method[-1] not in ("resolve", "reject"):
            super().handle_call({**message, "method": "services.built-in.refuse", "args": None, "with_kwargs": False})
        elif method[0] == "services" and len(method) > 2 and method[1] not in self.services and self._find_service:
            task = asyncio.ensure_future(self._find_and_handle(method[1], message))
            self._finding.add(task)
            task.add_done_callback(self._finding.discard)
        elif method[-1] in ("resolve", "reject") and not self.has_session(".".join(method[:-1])):
            logger.debug("A late answer: %s", message["method"])  # for example to the last heartbeat of a call that has ended
        else:
            super().handle_call(message)

    async def _find_and_handle(self, service_id: str, message: dict[str, Any]) -> None:
        assert self._find_service is not None
        try:
            await self._find_service(service_id)
        except Exception as error:  # the call itself then fails with the error that its method does not exist
            logger.debug("Service %s: %s", service_id, error)
        super().handle_call(message)

    async def run_method(
        self,
        method: Callable[..., Any],
        args: Any,
        kwargs: Any,
        resolve: Callable[[Any], Any] | None,
        reject: imjoy_rpc.Reject | None,
        heartbeat: asyncio.Task[None] | None,
        name: str | None,
    ) -> None:
        told = None
        try:
            result = method(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            logger.debug("%s: %s", name, error)
            if reject is not None:
                told = reject(Exception(_message(error)))
        else:
            if resolve is not None:
                told = resolve(result)
        finally:
            if heartbeat is not None:
                heartbeat.cancel()
            if told is not None:  # a client that has disconnected gets no answer
                told.add_done_callback(lambda told: told.cancelled() or told.exception())

    def create_message(self, key: Any, heartbeat: Any = False, overwrite: bool = False, context: Any = None) -> None:
        self._uploads.open(self._sender, key, self._limit, answer=self._is_answer(key, heartbeat))
        super().create_message(key, bool(heartbeat), overwrite, context)
        self.unfinished[key] = bytearray()

    def append_message(self, key: Any, data: Any, heartbeat: Any = False, context: Any = None) -> None:
        kept = self.unfinished.get(key, b"")
        try:
            self._uploads.grow(self._sender, key, data)
        except TooLarge as error:
            self._too_large(error)
            self._fail_call(envelope.too_large(kept))
            raise
        if heartbeat and self._is_answer(key, heartbeat):
            self.sessions[key]["timer"].reset()
        self.unfinished[key].extend(data)

    def process_message(self, key: Any, heartbeat: Any = False, context: Any = None) -> None:
        self._uploads.checked(self._sender, key)
        try:
            whole = envelope.checked(self.unfinished[key], self._sender)
        except envelope.NotAMessage as error:
            raise ValueError(f"The chunks make no message: {error}") from error
        except envelope.MessageRefused as error:
            self._fail_call(error)
            raise
        finally:
            self._uploads.close(key)
        self._take(whole)

    def _is_answer(self, key: Any, heartbeat: Any) -> bool:
        """Whether a message answers a call of this endpoint; then each part resets the call's timeout. Raises KeyError."""
        if not heartbeat:
            return False
        session = self.sessions.get(key) if isinstance(key, str) and key not in envelope.RESERVED_SESSIONS else None
        if not isinstance(session, dict) or "timer" not in session:
            raise KeyError(f"The session {str(key)[:80]} no longer exists.")
        return True

    def remove_message(self, key: Any, context: Any = None) -> None:
        self._uploads.checked(self._sender, key)
        self._uploads.close(key)

    async def answers(self) -> bool:
        """Whether the client is alive: its library answers, whatever its program does."""
        try:
            await self.ping(self._sender, _PING_PATIENCE)
        except Exception:
            return False
        return True

    def end_calls(self, has_left: bool = True) -> bool:
        """Make all calls of the client's functions that wait for an answer fail. Returns whether there were any.

        Args:
            has_left: whether the client has disconnected, so that nothing can be sent to it.
        """
        self._has_left |= has_left
        waiting = list(_waiting_calls(self.sessions))
        for reject in waiting:
            reject(ClientLeft(self._sender))
        return bool(waiting)

    async def disconnect(self) -> None:
        self.end_calls()
        self._uploads.end()
        await super().disconnect()

    def _forget(self, key: str) -> None:
        self.unfinished.pop(key, None)

    async def _tell(self, method: str, args: list[Any]) -> None:
        """Call a method of the client without waiting for an answer. Raises ClientLeft."""
        if self._has_left:
            raise ClientLeft(self._sender)
        main = {"type": "method", "from": f"{self.workspace}/{MANAGER_ID}", "to": self._sender, "method": method}
        await self._send_frame(chunks.frame(self._with_user(main), args))

    async def _tell_and_hear(self, method: str, args: list[Any]) -> None:
        """Call a method of the client, and wait until it has handled the call. Raises ClientLeft, TimeoutError."""
        await self._tell(method, args)
        await self.ping(self._sender, _METHOD_TIMEOUT)

    async def send_chunks(self, package: bytes, target: str, session: str | None) -> None:
        if chunks.is_answer(package):
            tell, ask = self._tell, self._tell_and_hear
            await chunks.send_answer(package, session, _ANSWER_CHUNK_SIZE, tell, ask, numbered=False)
            return
        remote = await self.get_remote_service(f"{target}:built-in")
        cache, message_id, heartbeat = remote.message_cache, session or shortuuid.uuid(), bool(session)
        await cache.create(message_id, heartbeat)
        flying: set[asyncio.Future[Any]] = set()
        for start in range(0, len(package), CHUNK_SIZE):
            # Appends are handled in the order in which they arrive, so several may be sent at once.
            flying.add(asyncio.ensure_future(cache.append(message_id, package[start : start + CHUNK_SIZE], heartbeat)))
            if len(flying) >= _CHUNKS_IN_FLIGHT:
                done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                for append in done:
                    append.result()
        await asyncio.gather(*flying)
        await cache.process(message_id, heartbeat)


def _waiting_calls(sessions: dict[str, Any]) -> Iterator[Callable[[Exception], None]]:
    """The reject functions of all calls in an endpoint's sessions, and in sessions within these."""
    for name, session in list(sessions.items()):
        if name not in envelope.RESERVED_SESSIONS and isinstance(session, dict):
            yield from _waiting_calls(session)
            if callable(reject := session.get("reject")):
                yield reject


def _message(error: Exception) -> str:
    """The message of an error. For a remote service, hypha-rpc's error contains it twice, and imjoy-rpc's is a traceback."""
    text = str(error).removeprefix("RemoteError:")
    if text.startswith("Traceback "):
        text = told_error(text)
    return text.split("\nException: ")[0].strip() or type(error).__name__
