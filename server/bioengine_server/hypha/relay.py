"""Check chunked messages between clients: they are joined here too, because a receiver's library trusts their content.

    create -> set | append, ... -> process: the whole message is checked (hypha.envelope), then the receiver may process it

Each chunk is passed on to the receiver as it arrives. The last step, which makes the receiver process the message, is passed on
only if the message is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bioengine_contract.errors import BioEngineError

from bioengine_server.access.errors import TooLarge
from bioengine_server.hypha import envelope
from bioengine_server.hypha.uploads import Uploads
from bioengine_server.limits import SizeLimit

_CACHE = "services.built-in.message_cache."
_MAX_CHUNKS = 1_000_000


class Relays:
    """The unfinished messages of all clients; a message belongs to the client that began it.

    `owners`: that client, by the receiver and the message's key.
    """

    def __init__(self, is_own: Callable[[str], bool]) -> None:
        self.is_own = is_own
        self.owners: dict[tuple[str, str], str] = {}

    def of(self, sender: str, limit: SizeLimit) -> Relay:
        """The messages of the client `<workspace>/<client id>`; `limit`: the size limit of its unfinished ones together."""
        return Relay(self, sender, limit)


class Relay:
    """The unfinished messages of one client to other clients."""

    def __init__(self, relays: Relays, sender: str, limit: SizeLimit) -> None:
        self._relays = relays
        self._limit = limit
        self._sender = sender
        self._chunks: dict[tuple[str, str], dict[int, bytes]] = {}
        self._uploads = Uploads(self._forget)

    def passed(self, message: envelope.Message) -> envelope.Message:
        """What to pass on for a message of this client; a chunk in it is kept as well. Raises MessageRefused."""
        method, target = str(message.main["method"]), self._target(message.main["to"])
        if not method.startswith(_CACHE) or self._relays.is_own(target):
            return message
        step, args = method.removeprefix(_CACHE), message.body.get("args") or []
        try:
            self._take(step, target, args, bool(message.body.get("with_kwargs")))
        except envelope.MessageRefused as error:
            error.message = message.main
            raise
        except (BioEngineError, ValueError, TypeError, KeyError) as error:
            raise _refused(error, message.main) from error
        if step != "create":
            return message
        # The receiver has to start again too, even if it still has chunks with that key.
        args = [args[0], bool(args[1]) if len(args) > 1 else False, True]
        return envelope.Message(message.main, {**message.body, "args": args}, b"")

    def end(self) -> None:
        """The client has disconnected."""
        self._uploads.end()

    def _target(self, to: str) -> str:
        return to if "/" in to else f"{self._sender.partition('/')[0]}/{to}"

    def _take(self, step: str, target: str, args: list[Any], with_kwargs: bool) -> None:
        if with_kwargs or not args or not isinstance(args[0], str):
            raise envelope.MessageRefused(
                "a step of a message in chunks has no key", "Give its arguments in order, the key first."
            )
        key = (target, args[0])
        if step == "create":
            if self._relays.owners.get(key, self._sender) != self._sender:
                raise ValueError("The message needs a key of its own.")
            self._uploads.open(self._sender, _name(key), self._limit)
            self._relays.owners[key], self._chunks[key] = self._sender, {}
        elif step == "append":
            self._add(key, len(self._chunks.get(key, ())), args[1])
        elif step == "set":
            self._add(key, args[1], args[2])
        elif step == "process":
            self._uploads.checked(self._sender, _name(key))
            chunks = self._chunks[key]
            try:
                envelope.checked(b"".join(chunks[index] for index in range(len(chunks))), self._sender)
            except envelope.NotAMessage as error:
                raise ValueError(str(error)) from error
            except envelope.MessageRefused as error:
                error.whole = error.message
                raise
            finally:
                self._uploads.close(_name(key))
        elif step == "remove":
            self._uploads.checked(self._sender, _name(key))
            self._uploads.close(_name(key))
        else:
            raise KeyError(step[:40])

    def _add(self, key: tuple[str, str], index: Any, data: Any) -> None:
        if type(index) is not int or not 0 <= index < _MAX_CHUNKS:
            raise ValueError("A chunk's number is a small whole one.")
        chunks = self._chunks.get(key, {})
        try:
            self._uploads.grow(self._sender, _name(key), data)
        except TooLarge as error:
            refused = _refused(error)
            refused.whole = envelope.too_large(chunks.get(0, b"")).message
            raise refused from error
        chunks[index] = data

    def _forget(self, name: str) -> None:
        target, _, key = name.partition("\n")
        self._chunks.pop((target, key), None)
        if self._relays.owners.get((target, key)) == self._sender:
            del self._relays.owners[target, key]


def _refused(error: Exception, message: dict[str, Any] | None = None) -> envelope.MessageRefused:
    problem = f"its chunks cannot be taken ({str(error) or type(error).__name__})"
    return envelope.MessageRefused(problem, "Begin the message again.", message)


def _name(key: tuple[str, str]) -> str:
    return "\n".join(key)
