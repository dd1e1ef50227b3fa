"""Endpoints of hypha-rpc in this process that accept only valid messages within limits, and only calls of offered functions.

The library itself looks names up as attributes, trusts what a message says about itself, builds arrays of any dtype and shape,
and keeps unfinished messages forever.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from bioengine_contract import message

from bioengine_server.access.caller import Caller
from bioengine_server.access.errors import TooLarge
from bioengine_server.access.refusals import Refusals
from bioengine_server.foreign import hypha_rpc
from bioengine_server.hypha import chunks, envelope, function_names
from bioengine_server.hypha.uploads import Uploads
from bioengine_server.limits import SizeLimit

# Twice the library's own size, so that an image needs half as many messages; its clients accept frames of 512,000 bytes.
_CHUNK_SIZE = 480 * 1024  # bytes

# One frame of a traceback: the location, and the code there.
_TRACEBACK_FRAME = re.compile(r'^  (?:File "|\[Previous line repeated ).*(?:\n    .*)*\n?', re.MULTILINE)

_BUILT_IN = "built-in"


def use_limited_rpc(limit_of: Callable[[Caller], SizeLimit], refusals: Refusals | None = None) -> type:
    """Make clients of hypha-rpc create limited endpoints from now on. Returns the class, for use in Hypha's own.

    Args:
        limit_of: returns the size limit for the inputs of one request of a caller.
        refusals: are told of messages that are larger.

    Raises LibraryChanged.
    """
    hypha_rpc.check()
    hypha_rpc.use_lookup(function_names.find)
    hypha_rpc.mend_timers()
    hypha_rpc.mend_maps()
    limited = type("LimitedRPC", (LimitedRPC,), {"limit_of": staticmethod(limit_of), "refusals": refusals})
    hypha_rpc.use_end(limited)
    return limited


def is_own_end(id: str) -> bool:
    """Whether `<workspace>/<client id>` is a limited endpoint of this process."""
    return id in LimitedRPC.ends


async def client_left(id: str) -> None:
    """Make all calls fail in which an endpoint of this process waits for the client `<workspace>/<client id>`.

    Hypha informs only clients in the same workspace, and not its own manager: a client that asked for a service just then would
    have to wait for the manager's timeout.
    """
    for end in list(LimitedRPC.ends.values()):
        await end.client_left(id)


def check_arrays(rpc: Any) -> None:
    """Make an endpoint of either library refuse arrays whose dtype, shape and bytes do not match."""
    rpc.register_codec({"name": "ndarray", "decoder": message.restore})
    rpc.register_codec({"name": "typedarray", "decoder": _flat_array})


def bare_errors(rpc: Any) -> None:
    """Make an endpoint of either library send only the messages of errors, without tracebacks."""
    rpc.register_codec({"name": "error", "type": Exception, "encoder": _bare_error})


def hide_tracebacks() -> None:
    """Send only the messages of errors to clients: hypha-rpc would send the server's traceback, with paths.

    It puts the traceback of an asynchronous method into the message, and that of another method beside it.
    """
    hypha_rpc.use_traceback_format(_last_message)
    LimitedRPC.sends_tracebacks = False


def told_error(traceback: str) -> str:
    """The text that a client gets for an error, made from the error's formatted traceback."""
    return hypha_rpc.format_traceback(traceback)


def without_context(data: dict[str, Any]) -> None:
    """Remove the keyword argument `context` from a call: the server itself passes the caller to functions that need it."""
    args = data.get("args")
    if data.get("with_kwargs") and args and isinstance(args[-1], dict):
        args[-1].pop("context", None)


class LimitedRPC(hypha_rpc.End):
    """hypha-rpc's endpoint with limits: names lead only to offered functions, and the cache of chunked messages is bounded.

    `heartbeat` marks the answer to a call of this endpoint.
    """

    limit_of: Callable[[Caller], SizeLimit]
    refusals: Refusals | None = None
    sends_tracebacks = True
    ends: ClassVar[WeakValueDictionary[str, LimitedRPC]] = WeakValueDictionary()

    def __init__(self, connection: Any = None, *arguments: Any, **options: Any) -> None:
        self._peers = hypha_rpc.event_bus_of(connection)
        self._uploads = Uploads(self._forget, self._is_there)
        options["long_message_chunk_size"] = _CHUNK_SIZE
        super().__init__(connection, *arguments, **options)
        self._id = f"{self.workspace}/{self.client_id}"
        self.ends[self._id] = self
        check_arrays(self)
        # The library would keep each of these objects forever, and no client needs to send one.
        self.register_codec({"name": "generator", "decoder": _no_generator})
        if not self.sends_tracebacks:
            bare_errors(self)

    def add_service(self, api: Any, overwrite: bool = False) -> Any:
        """Add a service, but never replace the service `built-in`, which every endpoint has from the start."""
        id = dict.get(api, "id") if isinstance(api, dict) else None
        if id == _BUILT_IN and _BUILT_IN in self.services:
            raise ValueError(f"The id {_BUILT_IN!r} is taken.")
        return super().add_service(api, overwrite)

    def annotate(self, offered: Any, object_id: str, *arguments: Any, **options: Any) -> None:
        """Annotate the functions of a service only once, when it is offered.

        The library would also annotate functions that a client merely passes on (`_rintf`), and would confuse another client's
        function with one of its own that has the same name.
        """
        if callable(offered):
            known = self.known_method(offered)
            if known is not None and str(known["method_id"]).split(".")[1] != object_id.split(".", maxsplit=1)[0]:
                raise ValueError("A function is offered by one service.")
        elif isinstance(offered, (dict, list, tuple)):
            for value in dict.values(offered) if isinstance(offered, dict) else offered:
                if hasattr(value, "__rpc_object__"):
                    raise ValueError("You can only offer functions of your own.")
        super().annotate(offered, object_id, *arguments, **options)

    async def disconnect(self) -> None:
        if self.ends.get(self._id) is self:
            del self.ends[self._id]
        await super().disconnect()

    def take_frame(self, frame: Any) -> None:
        """Handle a frame. It was checked when it arrived; the context is still made here, never taken from the message."""
        if isinstance(frame, dict):
            frame.pop("ctx", None)
        super().take_frame(frame)

    def peer_not_found(self, message: Any) -> None:
        """Ignore such a message: the library would drop the sessions or services that it names; this server never sends one."""

    def handle_call(self, message: dict[str, Any]) -> None:
        without_context(message)
        if (step := chunks.step_of(message)) is not None:
            self._take_step(step, message)
            return
        # A call may only belong to a session in which this endpoint has called its sender; the library would create any other.
        parent = message.get("parent")
        if parent is not None and not self._is_session_with(str(parent), str(message.get("from"))):
            del message["parent"]
        super().handle_call(message)

    def _take_step(self, step: str, message: dict[str, Any]) -> None:
        """Handle a step of a chunked message, and answer it if the sender waits for an answer, as the library would."""
        try:
            getattr(self, f"{step}_message")(*message["args"], context=message["ctx"])
            outcome, told = "resolve", None
        except Exception as error:
            outcome, told = "reject", error
            if self.refusals is not None and isinstance(error, TooLarge):
                self.refusals.tell(error, Caller.from_context(message["ctx"]))
        if message.get("promise"):
            self.start(self._tell(message["from"], f"{message['session']}.{outcome}", self.encoded([told])))

    async def _tell(self, target: str, method: str, args: list[Any]) -> None:
        """Call a method of another endpoint without waiting for an answer."""
        await self.send(chunks.frame({"type": "method", "from": self._id, "to": target, "method": method}, args))

    async def send_chunks(self, package: bytes, target: str, session: str | None) -> None:
        """Send a message that is too long for one frame. Each step of a call is answered, so that the call fails if one fails."""
        if chunks.is_answer(package):
            tell, ask = functools.partial(self._tell, target), functools.partial(self.ask, target)
            await chunks.send_answer(package, session, _CHUNK_SIZE, tell, ask, numbered=True)
        else:
            await super().send_chunks(package, target, session)

    def _is_session_with(self, parent: str, sender: str) -> bool:
        top = parent.split(".", maxsplit=1)[0]
        session = self.sessions.get(top)
        if top in envelope.RESERVED_SESSIONS or not isinstance(session, dict):
            return False
        target = str(session.get("target_id"))
        return sender in (target, f"{self.workspace}/{target}") and isinstance(_session_at(self.sessions, parent), dict)

    def session_store(self, name: Any, create: bool = False) -> Any:
        """Find a session, but never among the services, whatever name a message gives."""
        if isinstance(name, str) and name.split(".")[0] in envelope.RESERVED_SESSIONS:
            return None
        return super().session_store(name, create)

    def create_message(self, key: str, heartbeat: bool = False, overwrite: bool = False, context: Any = None) -> None:
        is_answer = self._is_answer(key, heartbeat, context)
        self._uploads.open(context["from"], key, self.limit_of(Caller.from_context(context)), answer=is_answer)
        super().create_message(key, is_answer, overwrite, context)

    def append_message(self, key: str, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        self._grow(key, data, context)
        super().append_message(key, data, self._is_answer(key, heartbeat, context), context)

    def set_message(self, key: str, index: int, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        if type(index) is not int:
            raise TypeError(f"The number of a chunk must be a whole number, not {type(index).__name__}.")
        self._grow(key, data, context)
        super().set_message(key, index, data, self._is_answer(key, heartbeat, context), context)

    def process_message(self, key: str, heartbeat: bool = False, context: Any = None) -> None:
        """Process the joined message as one of its real sender; a message that names another sender is refused."""
        self._uploads.checked(context["from"], key)
        try:
            chunks = self.unfinished[key]
            if set(chunks) != set(range(len(chunks))):
                raise ValueError("Chunks of the message are missing.")
            data = b"".join(chunks[index] for index in range(len(chunks)))
            whole = envelope.checked(data, context["from"])
        except envelope.NotAMessage as error:
            raise ValueError(f"The chunks make no message: {error}") from error
        except envelope.MessageRefused as error:
            self._fail_call(error, context)
            raise
        finally:
            self._uploads.close(key)
        self._fire_from(context, whole)

    def _grow(self, key: str, data: bytes, context: Any) -> None:
        """Count a further chunk of a message. Raises KeyError, TypeError, TooLarge."""
        kept = self.unfinished.get(key, {})
        try:
            self._uploads.grow(context["from"], key, data)
        except TooLarge:
            self._fail_call(envelope.too_large(kept.get(0, b"")), context)
            raise

    def _fail_call(self, error: envelope.MessageRefused, context: Any) -> None:
        """If a refused message is an answer, make the call that waits for it fail."""
        if (told := envelope.instead(error)) is not None:
            self._fire_from(context, envelope.checked(told, context["from"]))

    def _fire_from(self, context: Any, message: envelope.Message) -> None:
        main = {**message.main, **{name: context[name] for name in ("from", "to", "ws", "user")}}
        self.fire({**main, "ctx": {**main, **self.default_context}, **message.body})

    def remove_message(self, key: str, context: Any = None) -> None:
        self._uploads.checked(context["from"], key)
        self._uploads.close(key)

    def _is_answer(self, key: Any, heartbeat: Any, context: Any) -> bool:
        """Whether a message answers a call of this endpoint; then each part resets the call's timeout. Raises KeyError."""
        if heartbeat and not (isinstance(key, str) and self._is_session_with(key, str(context["from"]))):
            raise KeyError(f"The session {str(key)[:80]} no longer exists.")
        return bool(heartbeat)

    def _forget(self, key: str) -> None:
        self.unfinished.pop(key, None)

    def _is_there(self, sender: str) -> bool:
        """Whether a client is connected. Only Hypha's own process knows it; elsewhere it is assumed."""
        workspace, _, client = sender.partition("/")
        return self._peers is None or bool(self._peers.is_local_client(workspace, client))


def _no_generator(_: Any) -> Any:
    raise ValueError("Generators are not accepted here. Send the values that they yield.")


def _session_at(store: Any, name: str) -> Any:
    try:
        return function_names.find(store, name)
    except KeyError:
        return None


# The text in front of the name of one of the server's own classes.
_OWN_MODULE = re.compile(r"^bioengine_(?:server|contract)\.(?:\w+\.)*(?=[A-Z])")


def _last_message(traceback: str) -> str:
    """The exception's own lines at the end of a formatted traceback; they may be indented too."""
    message = _TRACEBACK_FRAME.split(traceback.strip())[-1]
    return _OWN_MODULE.sub("", message)


def _bare_error(error: Exception) -> dict[str, str]:
    return {"_rtype": "error", "_rvalue": str(error), "_rtrace": ""}


def _flat_array(value: dict[str, Any]) -> Any:
    """A typed array of JavaScript, which has no shape."""
    data = dict.get(value, "_rvalue")
    size = message.item_size(dict.get(value, "_rdtype"))
    shape = [len(data) // size] if isinstance(data, bytes) else None
    return message.restore({**value, "_rtype": "ndarray", "_rshape": shape})
