"""imjoy-rpc's private names: a connection's RPC endpoint, its methods to override, and its data, under plain names.

A frame is a main part, followed by an extra part, both in MessagePack; long messages are sent in chunks of 512,000 bytes through
the built-in service's `message_cache` (imjoy-rpc 0.5, "hypha" transport).
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
    """Raises LibraryChanged if imjoy-rpc is not the version that was reviewed."""
    require("imjoy-rpc", VERSION, PARTS)


def use_lookup(find: Callable[..., Any]) -> None:
    """Look up the names of functions in messages with `find(store, name)`."""
    imjoy_rpc.hypha.rpc.index_object = find


def mend_promises() -> None:
    """Make sure that a call is answered only once: the library also rejects it when its message can no longer be sent."""
    imjoy_rpc.hypha.rpc.FuturePromise = _Promise


def silence() -> None:
    """Turn off the library's log: it writes a traceback for each message without a valid name, which any client may send."""
    imjoy_rpc.hypha.rpc.logger.setLevel(logging.CRITICAL)


class _Promise(FuturePromise):
    """The answer of a call, which can be set only once."""

    def resolve(self, result: Any) -> None:
        if not self.done():
            super().resolve(result)

    def reject(self, error: Any) -> None:
        if not self.done():
            super().reject(error)


class End(RPC):
    """An RPC endpoint of a connection. Its methods from `take_frame` on may be overridden; most do what the library does."""

    @property
    def workspace(self) -> str:
        return self._local_workspace

    @property
    def services(self) -> dict[str, Any]:
        """The services that it offers, by id."""
        return self._services

    @property
    def sessions(self) -> dict[str, Any]:
        """The calls that wait for an answer and the objects that were passed in them, by name; also `services`."""
        return self._object_store

    @property
    def unfinished(self) -> dict[str, Any]:
        """Messages that arrive in chunks and are not complete, by key."""
        cache: dict[str, Any] = self._object_store.get("message_cache", {})
        return cache

    def has_session(self, name: str) -> bool:
        return self._get_session_store(name) is not None

    def fire(self, message: dict[str, Any]) -> None:
        """Handle a message of the type `method`."""
        self._fire("method", message)

    def send_with(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send frames with `send` from now on."""
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
        """Call a function that was offered, send its answer with `resolve` or `reject`, then stop the heartbeat."""
        raise NotImplementedError

    async def send_chunks(self, package: bytes, target: str, session: str | None) -> None:
        """Send a long message in chunks. `session`: the session of the call that it answers."""
        await super()._send_chunks(package, target, session)

    def create_message(self, key: Any, heartbeat: Any = False, overwrite: bool = False, context: Any = None) -> None:
        """A message in chunks begins. `heartbeat`: whether it answers a call of this endpoint."""
        super()._create_message(key, heartbeat, overwrite, context)

    def append_message(self, key: Any, data: Any, heartbeat: Any = False, context: Any = None) -> None:
        super()._append_message(key, data, heartbeat, context)

    def process_message(self, key: Any, heartbeat: Any = False, context: Any = None) -> None:
        """All chunks of a message have arrived."""
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
