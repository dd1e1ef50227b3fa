"""Check a client's RPC message before anything acts on it. Both client libraries send the same two parts.

    frame = main part (target, method, session) + body (arguments, promise), each a MessagePack map

A message may say what to call, but not who calls: the server itself sets sender, user, workspace and context. So the main part is
made again from the few keys that a client may choose, and a message with any other key is refused. The same applies to messages
that arrive in chunks, once they are complete. Protocol: hypha-rpc 0.21 and imjoy-rpc 0.5, `RPC._handle_method`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack
from bioengine_contract.errors import BioEngineError
from bioengine_contract.msgpack_scan import TooMuch, check_structure

from bioengine_server.untrusted import quoted

# The keys that a client may choose; other keys of a main part would say who it is.
_MAIN_KEYS = frozenset({"type", "from", "to", "method", "session", "parent"})
_BODY_KEYS = frozenset({"args", "with_kwargs", "promise", "t"})

# The libraries' markers in arguments that are allowed. Others, such as for encryption or files on the server, are not needed
# here.
_MARKERS = frozenset(
    "_rtype _rvalue _rshape _rdtype _rtrace _rtarget _rmethod _rpromise _rdoc _rsig _rschema _rname _rserver _rasync _rintf "
    "_rkwargs _rnative _rclose_method".split()
)
_CLOSED_MARKERS = frozenset({"_enc", "__rpc_object__"})
_CLOSED_TYPES = frozenset({"pydantic_model"})  # the receiver would make classes from the sender's schema
_CALLABLE_TYPES = frozenset({"method", "generator"})

_NAME = r"[A-Za-z0-9_.|@~-]{1,200}"
_TARGET = re.compile(rf"(\*/|{_NAME}/)?{_NAME}")
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100}){0,31}")
_MAX_METHOD = 500  # characters
_MAX_BEGINNING = 20_000  # bytes of a message, with its main part
# Sessions, and functions in them, have long random names. A receiver that looks names up as attributes would also find
# attributes of a function, such as `__globals__`, or in JavaScript `constructor`. None of those has this form.
_RANDOM = r"[A-Za-z0-9]{15,100}"
_SESSION_METHOD = re.compile(rf"({_RANDOM}\.){{1,32}}(resolve|reject|heartbeat|{_RANDOM}([#:-][^.]{{0,200}})?)")
_HIDDEN_PARTS = frozenset({"_dispose", "__enter__", "__exit__"})
_MAX_TEXT = 20_000  # characters of a function's signature or documentation
_MIN_INTERVAL = 0.05  # seconds between two heartbeats to a client
_MAX_INTERVAL = 100_000_000.0  # seconds

# Names in an RPC endpoint's object store that are not sessions.
RESERVED_SESSIONS = frozenset({"services", "message_cache"})


class NotAMessage(BioEngineError):
    """A frame is not a message; its connection is closed with the reason.

    Args:
        problem: such as "is not MessagePack".
    """

    code = "not_a_message"

    def __init__(self, problem: str) -> None:
        super().__init__(f"The frame {problem}.")


class MessageRefused(BioEngineError):
    """A message contains something that clients may not send.

    Args:
        problem: what is wrong.
        expected: what is allowed, and what to do.
        message: its main part, for the answer.

    `whole`: if it was the last step of a message in chunks, and the whole message is what is refused, that message's main part.
    """

    code = "message_refused"

    def __init__(self, problem: str, expected: str, message: dict[str, Any] | None = None) -> None:
        super().__init__(f"The message is refused: {problem}. {expected}")
        self.message = message or {}
        self.whole: dict[str, Any] = {}


@dataclass(frozen=True)
class Message:
    """A checked message. `main` has no sender, user or context yet; `body` is the rest."""

    main: dict[str, Any]
    body: dict[str, Any]
    rest: bytes | memoryview
    """The body's own bytes; empty where the body was part of the main part."""

    def to_frame(self) -> bytes:
        """The message as a frame, with the new main part."""
        if self.rest or not self.body:
            return bytes(msgpack.packb(self.main)) + self.rest
        return bytes(msgpack.packb(self.main)) + bytes(msgpack.packb(self.body))


def checked(data: bytes | bytearray, sender: str) -> Message:
    """Check the message in a frame, or in its joined chunks.

    Args:
        data: the bytes that were received.
        sender: the sender's `<workspace>/<client id>`, as known to the server. Hypha's manager, in the workspace `*`, may pass on
            functions of others, because it returns services to clients.

    Raises NotAMessage, MessageRefused.
    """
    main, body, rest = _unpacked(data)
    try:
        return _checked(main, body, rest, sender)
    except MessageRefused as error:
        error.message = main
        raise


def refusal(error: MessageRefused, sender: str, manager: str) -> bytes:
    """The frame that tells only the sender why its message was refused.

    If the message was a call, the frame rejects it; otherwise it is a message of the type `error`, which both libraries ignore.

    Args:
        error: the reason.
        sender: as for `checked`.
        manager: the endpoint to name as the origin, if the message did not name a valid target.
    """
    told = error.message.get("to")
    origin = told if isinstance(told, str) and _TARGET.fullmatch(told) else manager
    if "/" not in origin:
        origin = f"{sender.partition('/')[0]}/{origin}"
    session = error.message.get("session")
    main: dict[str, Any] = {"from": origin, "to": sender, "user": {}}
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        return bytes(msgpack.packb({"type": "error", "message": str(error), **main}))
    args = [{"_rtype": "error", "_rvalue": str(error), "_rtrace": ""}]
    main = {"type": "method", "method": f"{session}.reject", **main}
    return bytes(msgpack.packb(main)) + bytes(msgpack.packb({"args": args}))


def instead(error: MessageRefused) -> bytes | None:
    """For a refused answer, the frame that replaces it, so that the receiver's call fails; None for other messages."""
    message = error.whole or error.message
    to, method = message.get("to"), message.get("method")
    if message.get("type") != "method" or not isinstance(to, str) or not _TARGET.fullmatch(to):
        return None
    if not _is_method(method) or not str(method).endswith(".resolve") or str(method).startswith("services."):
        return None
    text = f"The answer was not passed on. {error}"
    main = {"type": "method", "to": to, "method": f"{str(method).removesuffix('resolve')}reject"}
    args = [{"_rtype": "error", "_rvalue": text, "_rtrace": ""}]
    return bytes(msgpack.packb(main)) + bytes(msgpack.packb({"args": args}))


def too_large(beginning: bytes | bytearray) -> MessageRefused:
    """The refusal of a message of which only this beginning is kept, because the rest is too large; for `instead`."""
    data = bytes(beginning[:_MAX_BEGINNING])
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=_MAX_BEGINNING, strict_map_key=True)
        unpacker.feed(data)
        main = unpacker.unpack()
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        main = None
    return MessageRefused("it is too large", "Send less at a time.", main if isinstance(main, dict) else None)


def _unpacked(data: bytes | bytearray) -> tuple[dict[str, Any], dict[str, Any], bytes | memoryview]:
    try:
        check_structure(data, parts=2)
    except TooMuch as error:
        # The main part is valid, so the error can be sent to the session that waits for an answer.
        main = msgpack.unpackb(data[: error.second], strict_map_key=True) if error.second else None
        if not isinstance(main, dict):
            raise NotAMessage(str(error)) from error
        raise MessageRefused(str(error), "Send less at a time.", main) from error
    except ValueError as error:
        raise NotAMessage(f"is not MessagePack ({error})") from error
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=max(len(data), 1), strict_map_key=True)
        unpacker.feed(data)
        main = unpacker.unpack()
        if not isinstance(main, dict) or not isinstance(main.get("to"), str) or not isinstance(main.get("type"), str):
            raise NotAMessage("does not name its target and type")
        start = unpacker.tell()
        body = unpacker.unpack() if start < len(data) else {}
        if unpacker.tell() != len(data):
            raise NotAMessage("has more than two parts")
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise NotAMessage(f"is not MessagePack ({str(error) or type(error).__name__})") from error
    if not isinstance(body, dict):
        raise NotAMessage("has a second part that is not a map")
    return main, body, memoryview(data)[start:] if start < len(data) else b""


def _checked(main: dict[str, Any], body: dict[str, Any], rest: bytes | memoryview, sender: str) -> Message:
    _check_keys(main, _MAIN_KEYS | _BODY_KEYS, "The server itself adds sender, user and context; leave the key out.")
    _check_keys(body, _BODY_KEYS, "The second part may contain only arguments and a promise.")
    if main["type"] != "method":
        raise MessageRefused(f"its type is {_shown(main['type'])}", "Clients send messages of the type 'method' only.")
    client = sender.rpartition("/")[2]
    if "from" in main and main["from"] not in (sender, client):
        raise MessageRefused(f"it claims to be from {_shown(main['from'])}", f"This client is {sender}.")
    if not _TARGET.fullmatch(main["to"]):
        raise MessageRefused(f"it is to {_shown(main['to'])}", "Name one client, such as 'workspace/client'.")
    method = main.get("method")
    if not _is_method(method):
        raise MessageRefused(f"its method is {_shown(method)}", "Name a method that is offered, such as 'services.default.echo'.")
    made: dict[str, Any] = {"type": "method", "to": main["to"], "method": method}
    for key in ("session", "parent"):
        if main.get(key) is not None:
            made[key] = _session(key, main[key])
    inline = {key: main[key] for key in main.keys() & _BODY_KEYS}
    if inline:
        body, rest = {**inline, **body}, b""
    _check_body(body, made.get("session"), (sender, client))
    return Message(made, body, rest)


def _is_method(name: Any) -> bool:
    """Whether a name can be that of an offered function: of a service, or in a session."""
    if not isinstance(name, str) or not name.isprintable() or len(name) > _MAX_METHOD:
        return False
    first, *parts = name.split(".")
    if first != "services":
        return bool(_SESSION_METHOD.fullmatch(name))
    if len(parts) < 2 or not all(parts):
        return False
    id, *functions = parts
    hidden = [part for part in functions if part.startswith("_") and part not in _HIDDEN_PARTS]
    return not hidden and (not id.startswith("_") or id.startswith("_rintf_"))


def _check_keys(part: dict[Any, Any], allowed: frozenset[str], advice: str) -> None:
    if part.keys() <= allowed:
        return
    name = next(key for key in part if key not in allowed)
    raise MessageRefused(f"it names {_shown(name)}", advice)


def _session(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _SESSION.fullmatch(value) or value.split(".")[0] in RESERVED_SESSIONS:
        raise MessageRefused(f"its {key} is {_shown(value)}", "A session is named by letters, digits, '-', '_' and '.'.")
    return value


def _check_body(body: dict[str, Any], session: str | None, own: tuple[str, str]) -> None:
    args, promise = body.get("args"), body.get("promise")
    if args is not None and not isinstance(args, list):
        raise MessageRefused("its args are not a list", "Send the arguments as a list.")
    if body.get("with_kwargs") not in (None, False, True):
        raise MessageRefused(f"its with_kwargs is {_shown(body['with_kwargs'])}", "It can be true or false.")
    if body.get("with_kwargs") and not (args and isinstance(args[-1], dict) and all(isinstance(key, str) for key in args[-1])):
        raise MessageRefused("it has no keyword arguments", "With with_kwargs, the last argument is a map of them.")
    if promise == "*":
        if session is None:
            raise MessageRefused("it has a promise and no session", "Name the session that waits for the answer.")
        _check_interval(body.get("t"))
    elif promise is not None:
        _check_promise(promise, session)
    _check_values([args, None if promise == "*" else promise], own)


def _check_promise(promise: Any, session: str | None) -> None:
    """Check a promise: its functions are in the sender's session, which their names must begin with."""
    if not isinstance(promise, dict) or not {"resolve", "reject"} <= promise.keys() <= {
        "resolve",
        "reject",
        "heartbeat",
        "interval",
    }:
        raise MessageRefused(
            "its promise does not have exactly the parts of a promise", "A promise has resolve, reject, heartbeat and interval."
        )
    if "heartbeat" in promise:
        _check_interval(promise.get("interval"))
    for name in promise.keys() - {"interval"}:
        function = promise[name]
        if not isinstance(function, dict) or function.get("_rtype") != "method":
            raise MessageRefused(f"the {name} of its promise is not a function", "Name a function of this client.")
        if name != "heartbeat" and function.get("_rpromise", False) is not False:
            raise MessageRefused(f"the {name} of its promise has a promise itself", "Nobody waits for the answer to an answer.")
        named = function.get("_rmethod")
        if session is None or not isinstance(named, str) or not named.startswith(f"{session}."):
            raise MessageRefused(
                f"the {name} of its promise is {_shown(named)}", "A promise belongs to the message's own session."
            )


def _check_interval(interval: Any) -> None:
    fits = isinstance(interval, (int, float)) and not isinstance(interval, bool) and _MIN_INTERVAL <= interval <= _MAX_INTERVAL
    if not fits:
        raise MessageRefused(f"its heartbeat has the interval {_shown(interval)}", f"It can be {_MIN_INTERVAL} s and more.")


def _check_values(values: Iterable[Any], own: tuple[str, str]) -> None:
    """Check all maps within a value for the libraries' markers."""
    pending = list(values)
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            _check_map(value, own)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _check_map(value: dict[Any, Any], own: tuple[str, str]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise MessageRefused(f"a map within has the key {_shown(key)}", "Keys are strings.")
        if (key.startswith("_r") and key not in _MARKERS and key.isidentifier() and "_rtype" in value) or key in _CLOSED_MARKERS:
            raise MessageRefused(f"an argument has the marker {_shown(key)}", "It is not accepted here; leave it out.")
    if "_rtype" not in value:
        return
    kind = value["_rtype"]
    if kind == "orderedmap":
        _check_ordered_map(value.get("_rvalue"))
    if not isinstance(kind, str) or len(kind) > 100 or kind in _CLOSED_TYPES:
        raise MessageRefused(
            f"an argument has the type {_shown(kind)}", "Send arrays, strings, numbers, lists, maps and functions."
        )
    if kind in _CALLABLE_TYPES:
        _check_function(value, own)
    elif "_rtarget" in value or "_rmethod" in value:
        raise MessageRefused(f"an argument of the type {_shown(kind)} names a function", "Functions have the type 'method'.")


def _check_ordered_map(pairs: Any) -> None:
    """Check an ordered map: the receiver turns it into a map, which must not contain markers."""
    for pair in pairs if isinstance(pairs, list) else ():
        if not isinstance(pair, list) or not pair or not isinstance(pair[0], str) or pair[0].startswith("_"):
            raise MessageRefused("an ordered map within has no plain keys", "Keys are strings that do not begin with '_'.")


def _check_function(value: dict[str, Any], own: tuple[str, str]) -> None:
    """Check that a function in arguments is the sender's own, because the receiver will call it in its own name."""
    if value.get("_rtarget") not in own and not own[0].startswith("*/"):
        raise MessageRefused(f"it passes on a function of {_shown(value.get('_rtarget'))}", "Pass on functions of your own only.")
    for key in ("_rmethod", "_rclose_method"):
        name = value.get(key, "x" if key == "_rclose_method" else None)
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _MAX_METHOD:
            raise MessageRefused(f"it passes on a function named {_shown(name)}", "Name it by a short string.")
    if value.get("_rpromise", False) not in (True, False, "*"):
        raise MessageRefused(f"the _rpromise of a function is {_shown(value['_rpromise'])}", "It can be true, false or '*'.")
    for key in ("_rdoc", "_rsig", "_rname"):
        text = value.get(key)
        if text is not None and (not isinstance(text, str) or len(text) > _MAX_TEXT):
            raise MessageRefused(f"the {key} of a function is not a short text", "Leave it out.")


def _shown(value: Any) -> str:
    return quoted(value, 80)
