"""Ends of hypha-rpc in this process that take only what is well-formed, offered and within bounds.

The library looks names up through attributes, believes what a message says of itself, builds arrays from whatever dtype and
shape it names, and keeps unfinished messages for ever.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from bioengine_contract import message

from bioengine_server.access.caller import Caller
from bioengine_server.foreign import hypha_rpc
from bioengine_server.hypha import chunks, envelope, function_names
from bioengine_server.hypha.uploads import Uploads
from bioengine_server.limits import SizeLimit

# Twice the library's own, so that an image is half as many messages; its clients take 512,000 bytes with what is around a chunk.
_CHUNK_SIZE = 480 * 1024  # bytes

# One frame of a traceback: where it is, and the code there.
_TRACEBACK_FRAME = re.compile(r'^  (?:File "|\[Previous line repeated ).*(?:\n    .*)*\n?', re.MULTILINE)

_BUILT_IN = "built-in"


def guard_rpc(limit_of: Callable[[Caller], SizeLimit]) -> type:
    """Have every end of hypha-rpc that a client of it makes guarded from now on; returns the class, for those of Hypha's.

    Args:
        limit_of: gives the limit of the inputs of one request of a caller.

    Raises LibraryChanged.
    """
    hypha_rpc.check()
    hypha_rpc.use_lookup(function_names.find)
    guarded = type("GuardedRPC", (_GuardedRPC,), {"limit_of": staticmethod(limit_of)})
    hypha_rpc.use_end(guarded)
    return guarded


def is_own_end(id: str) -> bool:
    """Whether an end, `<workspace>/<client id>`, is a guarded one of this process."""
    return id in _GuardedRPC.ends


async def client_left(id: str) -> None:
    """Have whatever an end of this process waits for from a client, `<workspace>/<client id>`, fail now.

    Hypha tells those alone who are in the client's workspace, and its manager not at all: who asked for a service at the wrong
    moment would wait for as long as the manager does.
    """
    for end in list(_GuardedRPC.ends.values()):
        await end.client_left(id)


def check_arrays(rpc: Any) -> None:
    """Have an end of either library refuse arrays that are not what they say."""
    rpc.register_codec({"name": "ndarray", "decoder": message.restore})
    rpc.register_codec({"name": "typedarray", "decoder": _flat_array})


def bare_errors(rpc: Any) -> None:
    """Have an end of either library send errors as what they say, without their traceback."""
    rpc.register_codec({"name": "error", "type": Exception, "encoder": _bare_error})


def hide_tracebacks() -> None:
    """Have errors reach clients as their message alone: hypha-rpc sends the server's traceback, paths and all.

    It puts that of an asynchronous method into the message, and that of another beside it.
    """
    hypha_rpc.use_traceback_format(_last_message)
    _GuardedRPC.sends_tracebacks = False


def told_error(traceback: str) -> str:
    """What a client is told of an error, from its formatted traceback."""
    return hypha_rpc.format_traceback(traceback)


def without_context(data: dict[str, Any]) -> None:
    """Take the keyword `context` out of a call: who calls is for the server to say, to functions that ask for it."""
    args = data.get("args")
    if data.get("with_kwargs") and args and isinstance(args[-1], dict):
        args[-1].pop("context", None)


class _GuardedRPC(hypha_rpc.End):
    """hypha-rpc's end, with names that lead nowhere else and its cache of chunked messages in bounds.

    `heartbeat` marks the answer to a call of this end.
    """

    limit_of: Callable[[Caller], SizeLimit]
    sends_tracebacks = True
    ends: ClassVar[WeakValueDictionary[str, _GuardedRPC]] = WeakValueDictionary()

    def __init__(self, connection: Any = None, *arguments: Any, **options: Any) -> None:
        self._peers = hypha_rpc.event_bus_of(connection)
        self._uploads = Uploads(self._forget, self._is_there)
        options["long_message_chunk_size"] = _CHUNK_SIZE
        super().__init__(connection, *arguments, **options)
        self._id = f"{self.workspace}/{self.client_id}"
        self.ends[self._id] = self
        check_arrays(self)
        # The library keeps one for as long as it lives, and nobody sends any to the server.
        self.register_codec({"name": "generator", "decoder": _no_generator})
        if not self.sends_tracebacks:
            bare_errors(self)

    def add_service(self, api: Any, overwrite: bool = False) -> Any:
        """Its own `built-in` an end has from the start, and nobody puts another in its place."""
        id = dict.get(api, "id") if isinstance(api, dict) else None
        if id == _BUILT_IN and _BUILT_IN in self.services:
            raise ValueError(f"The id {_BUILT_IN!r} is taken.")
        return super().add_service(api, overwrite)

    def annotate(self, offered: Any, object_id: str, *arguments: Any, **options: Any) -> None:
        """What a function may be called for is said once, by whoever offers it.

        The library says it anew for what a client merely passes on (`_rintf`), and takes a function of another that has the
        name of one of its own for that one.
        """
        if callable(offered):
            known = self.known_method(offered)
            if known is not None and str(known["method_id"]).split(".")[1] != object_id.split(".", maxsplit=1)[0]:
                raise ValueError("A function is offered by one service.")
        elif isinstance(offered, (dict, list, tuple)):
            for value in dict.values(offered) if isinstance(offered, dict) else offered:
                if hasattr(value, "__rpc_object__"):
                    raise ValueError("Only functions of one's own are offered.")
        super().annotate(offered, object_id, *arguments, **options)

    async def disconnect(self) -> None:
        if self.ends.get(self._id) is self:
            del self.ends[self._id]
        await super().disconnect()

    def take_frame(self, frame: Any) -> None:
        """Whatever comes was checked where it came in. A context, all the same, is made here and not believed."""
        if isinstance(frame, dict):
            frame.pop("ctx", None)
        super().take_frame(frame)

    def peer_not_found(self, message: Any) -> None:
        """The library would drop its sessions, or its services, by the name in such a message. This server sends none."""

    def handle_call(self, message: dict[str, Any]) -> None:
        without_context(message)
        if (step := chunks.step_of(message)) is not None:
            self._take_step(step, message)
            return
        # A session of this end that a call belongs to is one that its sender was called in; else the library would make one.
        parent = message.get("parent")
        if parent is not None and not self._is_session_with(str(parent), str(message.get("from"))):
            del message["parent"]
        super().handle_call(message)

    def _take_step(self, step: str, message: dict[str, Any]) -> None:
        """Take a step of a message in chunks, and answer it where somebody waits for that, as the library would."""
        try:
            getattr(self, f"{step}_message")(*message["args"], context=message["ctx"])
            outcome, told = "resolve", None
        except Exception as error:
            outcome, told = "reject", error
        if message.get("promise"):
            self.start(self._tell(message["from"], f"{message['session']}.{outcome}", self.encoded([told])))

    async def _tell(self, target: str, method: str, args: list[Any]) -> None:
        """Call a method of another end that gives no answer."""
        await self.send(chunks.frame({"type": "method", "from": self._id, "to": target, "method": method}, args))

    async def send_chunks(self, package: bytes, target: str, session: str | None) -> None:
        """Send a message that is too long for one frame. Of a call, each step is answered, so that it fails where one does."""
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
        """No session is looked for among the services, whatever a message calls its own."""
        if isinstance(name, str) and name.split(".")[0] in envelope.RESERVED_SESSIONS:
            return None
        return super().session_store(name, create)

    def create_message(self, key: str, heartbeat: bool = False, overwrite: bool = False, context: Any = None) -> None:
        is_answer = self._is_answer(key, heartbeat, context)
        self._uploads.open(context["from"], key, self.limit_of(Caller.from_context(context)), answer=is_answer)
        super().create_message(key, is_answer, overwrite, context)

    def append_message(self, key: str, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        self._uploads.grow(context["from"], key, data)
        super().append_message(key, data, self._is_answer(key, heartbeat, context), context)

    def set_message(self, key: str, index: int, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        if type(index) is not int:
            raise TypeError(f"The number of a chunk is a whole one, not {type(index).__name__}.")
        self._uploads.grow(context["from"], key, data)
        super().set_message(key, index, data, self._is_answer(key, heartbeat, context), context)

    def process_message(self, key: str, heartbeat: bool = False, context: Any = None) -> None:
        """The message that the chunks make, from whom they came; whatever it says of that itself is refused."""
        self._uploads.checked(context["from"], key)
        try:
            chunks = self.unfinished[key]
            if set(chunks) != set(range(len(chunks))):
                raise ValueError("Chunks of the message are missing.")
            data = b"".join(chunks[index] for index in range(len(chunks)))
            whole = envelope.checked(data, context["from"])
        except envelope.NotAMessage as error:
            raise ValueError(f"The chunks make no message: {error}") from error
        finally:
            self._uploads.close(key)
        main = {**whole.main, **{name: context[name] for name in ("from", "to", "ws", "user")}}
        self.fire({**main, "ctx": {**main, **self.default_context}, **whole.body})

    def remove_message(self, key: str, context: Any = None) -> None:
        self._uploads.checked(context["from"], key)
        self._uploads.close(key)

    def _is_answer(self, key: Any, heartbeat: Any, context: Any) -> bool:
        """Whether a message is the answer to a call of this end; its parts keep the call waiting. Raises KeyError."""
        if heartbeat and not (isinstance(key, str) and self._is_session_with(key, str(context["from"]))):
            raise KeyError(f"The session {str(key)[:80]} does not exist any more.")
        return bool(heartbeat)

    def _forget(self, key: str) -> None:
        self.unfinished.pop(key, None)

    def _is_there(self, sender: str) -> bool:
        """In Hypha's own process it knows; elsewhere only patience helps."""
        workspace, _, client = sender.partition("/")
        return self._peers is None or bool(self._peers.is_local_client(workspace, client))


def _no_generator(_: Any) -> Any:
    raise ValueError("Generators are not taken here. Send what they yield.")


def _session_at(store: Any, name: str) -> Any:
    try:
        return function_names.find(store, name)
    except KeyError:
        return None


# Before the name of a class of ours.
_OWN_MODULE = re.compile(r"^bioengine_(?:server|contract)\.(?:\w+\.)*(?=[A-Z])")


def _last_message(traceback: str) -> str:
    """The exception's own lines at the end of a formatted traceback, which may be indented, too."""
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
