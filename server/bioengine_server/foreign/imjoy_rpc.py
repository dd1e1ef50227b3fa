"""imjoy-rpc's private names: its end of a connection, with methods to override and what it keeps, called plainly.

Frames are MessagePack of a main part, followed by one of an extra part; long messages come in chunks of 512,000 bytes
through the built-in service's `message_cache` (imjoy-rpc 0.5, "hypha" transport).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import imjoy_rpc.hypha.rpc
from imjoy_rpc.hypha.rpc import CHUNK_SIZE, RPC
from imjoy_rpc.hypha.utils import FuturePromise

from bioengine_server.library import require

__all__ = ["CHUNK_SIZE", "End", "check", "mend_promises", "silence", "use_lookup"]

VERSION = "0.5.59"
PARTS = {
    "FuturePromise": (FuturePromise, "67243f9b65bc"),
    "index_object": (imjoy_rpc.hypha.rpc.index_object, "cdd2f88a4504"),
    "RPC": (RPC, "af589ac7d320"),
}

Reject = Callable[[Exception], Any]


def check() -> None:
    """Raises LibraryChanged where imjoy-rpc is not the one that this module knows."""
    require("imjoy-rpc", VERSION, PARTS)


def use_lookup(find: Callable[..., Any]) -> None:
    """Have names of functions in messages looked up by `find(store, name)`."""
    imjoy_rpc.hypha.rpc.index_object = find


def mend_promises() -> None:
    """Have a call be answered once: the library rejects one also when its message cannot be sent any more."""
    imjoy_rpc.hypha.rpc.FuturePromise = _Promise


def silence() -> None:
    """Have nothing logged: it writes a traceback for each message that names nothing, as any client may send."""
    imjoy_rpc.hypha.rpc.logger.setLevel(logging.CRITICAL)


class _Promise(FuturePromise):
    """The answer of a call, which comes once."""

    def resolve(self, result: Any) -> None:
        if not self.done():
            super().resolve(result)

    def reject(self, error: Any) -> None:
        if not self.done():
            super().reject(error)


class End(RPC):
    """An end of a connection. The methods in its second half are to be overridden; most do what the library does."""

    @property
    def workspace(self) -> str:
        return self._local_workspace

    @property
    def services(self) -> dict[str, Any]:
        """What it offers, by id."""
        return self._services

    @property
    def sessions(self) -> dict[str, Any]:
        """The calls that wait for an answer and what was passed in them, by name; beside them `services`."""
        return self._object_store

    @property
    def unfinished(self) -> dict[str, Any]:
        """Messages that come in chunks, by key."""
        cache: dict[str, Any] = self._object_store.get("message_cache", {})
        return cache

    def has_session(self, name: str) -> bool:
        return self._get_session_store(name) is not None

    def fire(self, message: dict[str, Any]) -> None:
        """Handle a message of the type `method`."""
        self._fire("method", message)

    def send_with(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Have frames sent by `send` from now on."""
        self._emit_message = send

    async def send(self, frame: bytes) -> None:
        await self._emit_message(frame)

    def take_frame(self, frame: bytes) -> None:
        super()._on_message(frame)

    def handle_call(self, message: dict[str, Any]) -> None:
        super()._handle_method(message)

    async def run_method(
        self,
        method: Callable[..., Any],
        args: Any,
        kwargs: Any,
        resolve: Callable[[Any], Any] | None,
        reject: Reject | None,
        heartbeat: asyncio.Task[None] | None,
        name: str | None,
    ) -> None:
        """Call a function that was offered, and have its answer sent by `resolve` or `reject`; then end the heartbeat."""
        raise NotImplementedError

    async def send_chunks(self, package: bytes, target: str, session: str | None) -> None:
        """Send a long message; `session`: of the call that it answers."""
        await super()._send_chunks(package, target, session)

    def create_message(self, key: Any, heartbeat: Any = False, overwrite: bool = False, context: Any = None) -> None:
        """A message in chunks begins; `heartbeat`: it answers a call of this end."""
        super()._create_message(key, heartbeat, overwrite, context)

    def append_message(self, key: Any, data: Any, heartbeat: Any = False, context: Any = None) -> None:
        super()._append_message(key, data, heartbeat, context)

    def process_message(self, key: Any, heartbeat: Any = False, context: Any = None) -> None:
        """All chunks have come."""
        super()._process_message(key, heartbeat, context)

    def remove_message(self, key: Any, context: Any = None) -> None:
        super()._remove_message(key, context)

    def _on_message(self, message: bytes) -> None:
        self.take_frame(message)

    def _handle_method(self, data: dict[str, Any]) -> None:
        self.handle_call(data)

    def _call_method(  # type: ignore[no-untyped-def]
        self, method, args, kwargs, resolve=None, reject=None, heartbeat_task=None, method_name=None, run_in_executor=False
    ):
        return asyncio.ensure_future(self.run_method(method, args, kwargs, resolve, reject, heartbeat_task, method_name))

    async def _send_chunks(self, package: bytes, target_id: str, session_id: str | None) -> None:
        await self.send_chunks(package, target_id, session_id)

    def _create_message(self, key, heartbeat=False, overwrite=False, context=None):  # type: ignore[no-untyped-def]
        self.create_message(key, heartbeat, overwrite, context)

    def _append_message(self, key, data, heartbeat=False, context=None):  # type: ignore[no-untyped-def]
        self.append_message(key, data, heartbeat, context)

    def _process_message(self, key, heartbeat=False, context=None):  # type: ignore[no-untyped-def]
        self.process_message(key, heartbeat, context)

    def _remove_message(self, key, context=None):  # type: ignore[no-untyped-def]
        self.remove_message(key, context)
