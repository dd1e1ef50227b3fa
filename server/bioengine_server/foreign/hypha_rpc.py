"""hypha-rpc's private names: a connection's RPC endpoint, its methods to override, and its data, under plain names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import hypha_rpc.rpc
import hypha_rpc.utils
import hypha_rpc.websocket_client

from bioengine_server.library import require

_RPC = hypha_rpc.rpc.RPC

VERSION = "0.21.47"
PARTS = {
    "index_object": (hypha_rpc.rpc.index_object, "cdd2f88a4504"),
    "munchify": (hypha_rpc.utils.munchify, "8452ebc92e41"),
    "unmunchify": (hypha_rpc.utils.unmunchify, "f24c56a5a181"),
    "ObjectProxy": (hypha_rpc.utils.ObjectProxy, "52f696f8cf6d"),
    "Timer": (hypha_rpc.rpc.Timer, "6f63dd63cda2"),
    "RPC.__init__": (_RPC.__init__, "421d3412c053"),
    "RPC._on_message": (_RPC._on_message, "37e9bd53cdbb"),
    "RPC._handle_method": (_RPC._handle_method, "3ffcc9610cde"),
    "RPC._handle_client_disconnected": (_RPC._handle_client_disconnected, "dd99150faefe"),
    "RPC._handle_peer_not_found": (_RPC._handle_peer_not_found, "75785ab52835"),
    "RPC._get_session_store": (_RPC._get_session_store, "4b903cd46c16"),
    "RPC._create_message": (_RPC._create_message, "e1f32396657c"),
    "RPC._append_message": (_RPC._append_message, "ffb1a959b3b9"),
    "RPC._set_message": (_RPC._set_message, "6943684e4cda"),
    "RPC._process_message": (_RPC._process_message, "b8ea185cf84d"),
    "RPC._remove_message": (_RPC._remove_message, "4fa43874225f"),
    "RPC._send_chunks": (_RPC._send_chunks, "44f9334e1c31"),
    "RPC._expand_promise": (_RPC._expand_promise, "63a537722fdd"),
    "RPC._generate_remote_method": (_RPC._generate_remote_method, "a1b8a37bab76"),
    "RPC._encode": (_RPC._encode, "8d82ff0916d4"),
    "RPC._annotate_service_methods": (_RPC._annotate_service_methods, "383c9b875ac3"),
    "RPC.add_service": (_RPC.add_service, "75c1ea665a19"),
    "RPC._decode": (_RPC._decode, "8fa03609b34d"),
    "RPC._encode_callback": (_RPC._encode_callback, "cdf20c5316d1"),
    "RemoteFunction.__call__": (hypha_rpc.rpc.RemoteFunction.__call__, "309ba2acb246"),
}


def check() -> None:
    """Raises LibraryChanged if hypha-rpc is not the version that was reviewed."""
    require("hypha-rpc", VERSION, PARTS)


def use_end(end: type) -> None:
    """Make clients of hypha-rpc use this class for the endpoints that they create from now on."""
    hypha_rpc.websocket_client.RPC = end


def use_lookup(find: Callable[..., Any]) -> None:
    """Look up the names of functions in messages with `find(store, name)`."""
    hypha_rpc.rpc.index_object = find


def mend_timers() -> None:
    """Do not start the timer of a call that has been answered already.

    Within one process, the answer arrives before the library notices that the call was sent. The library then started the timer,
    and nothing stopped it: for the whole timeout it kept the answer and the endpoint, with everything in it, in memory.
    """
    hypha_rpc.rpc.Timer = _Timer  # type: ignore[misc]


def mend_maps() -> None:
    """Convert the maps of messages without a reference cycle.

    The library does it with nested functions that call each other. Together they are a cycle, which kept every image in memory
    until Python's garbage collector ran.
    """
    hypha_rpc.utils.munchify = lambda value, factory: _converted(value, factory, {})
    hypha_rpc.utils.unmunchify = lambda value: _converted(value, dict, {})


def use_traceback_format(format: Callable[[str], str]) -> None:
    """Make the text that is sent for an error with `format`, from its formatted traceback."""
    hypha_rpc.rpc.format_traceback = format


def format_traceback(traceback: str) -> str:
    """The text that is sent for an error, made from its formatted traceback."""
    return str(hypha_rpc.rpc.format_traceback(traceback))


def event_bus_of(connection: Any) -> Any:
    """Hypha's own event bus, if the connection is within Hypha's process; otherwise None."""
    return getattr(connection, "_event_bus", None)


def _converted(value: Any, new_map: Callable[[], Any], seen: dict[int, Any]) -> Any:
    """A copy of maps, lists and tuples, with maps of another class.

    Args:
        value: what to copy.
        new_map: makes an empty map of that class.
        seen: the copies so far, by the `id` of the original.
    """
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Mapping):
        copy = seen[id(value)] = new_map()
        # Not with its own `keys`: in the library's maps, an item of that name hides it.
        keys = dict.keys(value) if isinstance(value, dict) else value.keys()
        copy.update([(key, _converted(value[key], new_map, seen)) for key in keys])
        return copy
    if isinstance(value, list):
        copy = seen[id(value)] = type(value)()
        copy.extend([_converted(item, new_map, seen) for item in value])
        return copy
    if isinstance(value, tuple):
        return getattr(value, "_make", type(value))([_converted(item, new_map, seen) for item in value])
    return value


class _Timer(hypha_rpc.rpc.Timer):
    """The timer of a call, which cannot be started once it was cleared."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_cleared = False
        # From the beginning: the library clears only timers that have started, and an early answer must clear this one.
        self.started = True

    def start(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._stop()
        if not self._is_cleared:
            self._task = asyncio.ensure_future(self._job())

    def clear(self) -> None:
        self._is_cleared, self.started = True, False
        self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None


class End(hypha_rpc.rpc.RPC):
    """An RPC endpoint of a connection. Methods from `client_left` on may be overridden; they do what the library does."""

    @property
    def workspace(self) -> str:
        return self._local_workspace

    @property
    def client_id(self) -> str:
        return self._client_id

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
        """Messages that arrive in chunks and are not complete, by key; the chunks are stored by their number."""
        cache: dict[str, Any] = self._object_store.get("message_cache", {})
        return cache

    def known_method(self, function: Any) -> dict[str, Any] | None:
        """The annotation that a function got when it was first offered; its `method_id` is `services.<id>.<name>`."""
        known: dict[str, Any] | None = self._method_annotations.get(function)
        return known

    def encoded(self, args: list[Any]) -> Any:
        """Arguments as they are encoded in a message."""
        return self._encode(args)

    async def send(self, frame: bytes) -> None:
        """Send a frame. Nothing is sent once this endpoint has disconnected."""
        if self._emit_message is not None:
            await self._emit_message(frame)

    async def ask(self, target: str, method: str, args: list[Any]) -> Any:
        """Call a method of another endpoint, and wait for its answer."""
        return await self._generate_remote_method({"_rtarget": target, "_rmethod": method, "_rpromise": True})(*args)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background, at most until this endpoint disconnects; its errors are not reported."""
        task = asyncio.ensure_future(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background_tasks.discard(task)
        if not task.cancelled():
            task.exception()

    def fire(self, message: dict[str, Any]) -> None:
        """Handle a message of the type `method`."""
        self._fire("method", message)

    async def client_left(self, id: str) -> None:
        """Make all calls fail that wait for the client `<workspace>/<client id>`."""
        await self._handle_client_disconnected(id)

    def take_frame(self, frame: Any) -> None:
        """Handle a frame that has arrived. `frame`: bytes, or a message that is already decoded."""
        super()._on_message(frame)

    def handle_call(self, message: dict[str, Any]) -> None:
        super()._handle_method(message)

    def peer_not_found(self, message: Any) -> None:
        super()._handle_peer_not_found(message)

    def session_store(self, name: Any, create: bool = False) -> Any:
        """The session with this name; if it does not exist, it is created if `create` is set."""
        return super()._get_session_store(name, create)

    def annotate(self, offered: Any, object_id: str, *arguments: Any, **options: Any) -> None:
        """Annotate the functions of a service with who may call them."""
        super()._annotate_service_methods(offered, object_id, *arguments, **options)

    async def send_chunks(self, package: bytes, target: str, session: str | None) -> None:
        """Send a long message in chunks. `session`: the session of the call that it answers."""
        await super()._send_chunks(package, target, session)

    def create_message(self, key: str, heartbeat: bool = False, overwrite: bool = False, context: Any = None) -> None:
        """A message in chunks begins. `heartbeat`: whether it answers a call of this endpoint."""
        super()._create_message(key, heartbeat, overwrite, context)

    def append_message(self, key: str, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        super()._append_message(key, data, heartbeat, context)

    def set_message(self, key: str, index: int, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        super()._set_message(key, index, data, heartbeat, context)

    def process_message(self, key: str, heartbeat: bool = False, context: Any = None) -> None:
        """All chunks of a message have arrived."""
        super()._process_message(key, heartbeat, context)

    def remove_message(self, key: str, context: Any = None) -> None:
        super()._remove_message(key, context)

    def _on_message(self, message: Any) -> None:
        self.take_frame(message)

    def _handle_method(self, data: dict[str, Any]) -> None:
        self.handle_call(data)

    def _handle_peer_not_found(self, data: Any) -> None:
        self.peer_not_found(data)

    def _get_session_store(self, session_id: Any, create: bool = False) -> Any:
        return self.session_store(session_id, create)

    def _annotate_service_methods(self, a_object: Any, object_id: str, *arguments: Any, **options: Any) -> None:
        self.annotate(a_object, object_id, *arguments, **options)

    async def _send_chunks(self, package: bytes, target_id: str, session_id: str | None) -> None:
        await self.send_chunks(package, target_id, session_id)

    def _create_message(self, key: str, heartbeat: bool = False, overwrite: bool = False, context: Any = None) -> None:
        self.create_message(key, heartbeat, overwrite, context)

    def _append_message(self, key: str, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        self.append_message(key, data, heartbeat, context)

    def _set_message(self, key: str, index: int, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        self.set_message(key, index, data, heartbeat, context)

    def _process_message(self, key: str, heartbeat: bool = False, context: Any = None) -> None:
        self.process_message(key, heartbeat, context)

    def _remove_message(self, key: str, context: Any = None) -> None:
        self.remove_message(key, context)
