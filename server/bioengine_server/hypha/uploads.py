"""Messages that clients send in chunks: limited in size and number, and dropped when no further chunk arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bioengine_server.access.errors import TooLarge
from bioengine_server.limits import SizeLimit
from bioengine_server.memory import give_back_soon

_PATIENCE = 60.0  # seconds from one chunk to the next
_SWEEP_INTERVAL = 2.0  # seconds
_MAX_AT_ONCE = 100  # messages of one sender
_OVERHEAD = 1_000_000  # bytes of a message besides its inputs
_ANSWER_TO_REQUEST = 4  # how many times larger than a request an answer may be


@dataclass
class _Upload:
    sender: str
    answer: bool
    limit: SizeLimit
    size: int = 0
    touched: float = field(default_factory=time.monotonic)


class Uploads:
    """Tracks the unfinished messages in one RPC endpoint's cache; the cache itself belongs to the library."""

    def __init__(self, forget: Callable[[str], None], is_there: Callable[[str], bool] = lambda sender: True) -> None:
        """
        Args:
            forget: removes a message from the cache.
            is_there: whether a sender is still connected.
        """
        self._forget = forget
        self._is_there = is_there
        self._uploads: dict[str, _Upload] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self, sender: str, key: str, limit: SizeLimit, answer: bool = False) -> None:
        """A message begins, or begins again: a request, or the answer to a request of this server. Raises ValueError.

        Args:
            sender: the client that sends it.
            key: the sender's key for it.
            limit: the size limit for the inputs in all unfinished requests of the sender.
            answer: whether it is an answer, for which the limit is several times larger.
        """
        if not isinstance(key, str) or (key in self._uploads and self._uploads[key].sender != sender):
            raise ValueError("The message needs a key of its own.")
        self.close(key)  # a message that begins again replaces the old one
        if sum(other.sender == sender and other.answer == answer for other in self._uploads.values()) >= _MAX_AT_ONCE:
            raise ValueError(f"There are {_MAX_AT_ONCE} unfinished messages of this client. Finish one first.")
        self._uploads[key] = _Upload(sender, answer, limit)
        self._watch()

    def grow(self, sender: str, key: str, data: bytes) -> None:
        """A chunk has arrived. Raises KeyError, TypeError, or TooLarge, after which the message is dropped."""
        if not isinstance(data, bytes):
            raise TypeError(f"A chunk must be bytes, not {type(data).__name__}.")
        upload = self.checked(sender, key)
        upload.size += len(data)
        upload.touched = time.monotonic()
        alike = [other for other in self._uploads.values() if other.sender == sender and other.answer == upload.answer]
        size, most = sum(other.size for other in alike), upload.limit.bytes * (_ANSWER_TO_REQUEST if upload.answer else 1)
        if size > most + _OVERHEAD:
            self.close(key)
            raise TooLarge(size, upload.limit, is_all=False)

    def checked(self, sender: str, key: str) -> _Upload:
        """The unfinished message `key` of `sender`. Raises KeyError."""
        upload = self._uploads.get(key)
        if upload is None or upload.sender != sender:
            raise KeyError(f"There is no message {str(key)[:80]} of this client.")
        return upload

    def close(self, key: str) -> None:
        """A message is complete, or was given up."""
        self._uploads.pop(key, None)
        self._forget(key)

    def end(self) -> None:
        """Drop all messages, because no more chunks will arrive."""
        if self._uploads:
            give_back_soon()
        for key in list(self._uploads):
            self.close(key)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        oldest = time.monotonic() - _PATIENCE
        stale = [key for key, upload in self._uploads.items() if upload.touched < oldest or not self._is_there(upload.sender)]
        for key in stale:
            self.close(key)
        if stale:
            give_back_soon()
        if self._uploads:
            self._watch()
