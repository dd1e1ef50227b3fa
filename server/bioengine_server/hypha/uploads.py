"""Messages that clients send in chunks: bounded in size and number, and forgotten when they do not go on."""

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
_OVERHEAD = 1_000_000  # bytes of a message beside its inputs
_ANSWER_TO_REQUEST = 4  # how many times larger than a request an answer may be


@dataclass
class _Upload:
    sender: str
    answer: bool
    limit: SizeLimit
    size: int = 0
    touched: float = field(default_factory=time.monotonic)


class Uploads:
    """What is known of the unfinished messages in one RPC end's cache; the cache itself is the library's."""

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
        """A message begins, or begins anew: a request, or the answer to one of ours. Raises ValueError.

        Args:
            sender: who sends it.
            key: the sender's name for it.
            limit: of the inputs in all unfinished requests of the sender.
            answer: whether it is an answer; all unfinished ones of the sender together may be some times larger.
        """
        if not isinstance(key, str) or (key in self._uploads and self._uploads[key].sender != sender):
            raise ValueError("The message needs a key of its own.")
        self.close(key)  # what is begun anew is not kept as well
        if sum(other.sender == sender and other.answer == answer for other in self._uploads.values()) >= _MAX_AT_ONCE:
            raise ValueError(f"There are {_MAX_AT_ONCE} unfinished messages of this client. Finish one first.")
        self._uploads[key] = _Upload(sender, answer, limit)
        self._watch()

    def grow(self, sender: str, key: str, data: bytes) -> None:
        """A chunk has come. Raises KeyError, TypeError; TooLarge, with the message forgotten."""
        if not isinstance(data, bytes):
            raise TypeError(f"A chunk is bytes, not {type(data).__name__}.")
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
        """A message is finished, or given up."""
        self._uploads.pop(key, None)
        self._forget(key)

    def end(self) -> None:
        """Give up all of them; no more will come."""
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
