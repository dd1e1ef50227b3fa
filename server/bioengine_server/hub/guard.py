"""Ends of both RPC libraries that take only what is well-formed, within bounds.

The libraries build arrays from whatever dtype and shape a message names, and keep unfinished messages for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypha.core.store
import hypha.core.workspace
import hypha_rpc.rpc
import hypha_rpc.websocket_client

from bioengine_server.hub.uploads import Uploads
from bioengine_server.limits import SizeLimit
from bioengine_server.service.caller import Caller
from bioengine_server.triton import message

# Twice the library's own, so that an image is half as many messages; its clients take 512,000 bytes with what is around a chunk.
_CHUNK_SIZE = 480 * 1024  # bytes


def guard_rpc(limit_of: Callable[[Caller], SizeLimit]) -> None:
    """Have every end of hypha-rpc in this process guarded from now on: Hypha's own, and those of services.

    Args:
        limit_of: gives the limit of the inputs of one request of a caller.
    """
    guarded = type("GuardedRPC", (_GuardedRPC,), {"limit_of": staticmethod(limit_of)})
    for module in (hypha.core.store, hypha.core.workspace, hypha_rpc.websocket_client):
        module.RPC = guarded  # type: ignore[attr-defined]


def check_arrays(rpc: Any) -> None:
    """Have an end of either library refuse arrays that are not what they say."""
    rpc.register_codec({"name": "ndarray", "decoder": message.restore})
    rpc.register_codec({"name": "typedarray", "decoder": _flat_array})


def bare_errors(rpc: Any) -> None:
    """Have an end of either library send errors as what they say, without their traceback."""
    rpc.register_codec({"name": "error", "type": Exception, "encoder": _bare_error})


def send_bare_errors() -> None:
    """Have guarded ends that are made from now on do so."""
    _GuardedRPC.sends_tracebacks = False


class _GuardedRPC(hypha_rpc.rpc.RPC):
    """hypha-rpc's end, with its cache of chunked messages in bounds. `heartbeat` marks the answer to a call of this end."""

    limit_of: Callable[[Caller], SizeLimit]
    sends_tracebacks = True

    def __init__(self, connection: Any = None, *arguments: Any, **options: Any) -> None:
        self._peers = getattr(connection, "_event_bus", None)
        self._uploads = Uploads(self._forget, self._is_there)
        options["long_message_chunk_size"] = _CHUNK_SIZE
        super().__init__(connection, *arguments, **options)
        check_arrays(self)
        if not self.sends_tracebacks:
            bare_errors(self)

    def _create_message(self, key: str, heartbeat: bool = False, overwrite: bool = False, context: Any = None) -> None:
        self._uploads.open(context["from"], key, self.limit_of(Caller.from_context(context)), answer=heartbeat)
        super()._create_message(key, heartbeat, overwrite, context)

    def _append_message(self, key: str, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        self._uploads.grow(context["from"], key, data)
        super()._append_message(key, data, heartbeat, context)

    def _set_message(self, key: str, index: int, data: bytes, heartbeat: bool = False, context: Any = None) -> None:
        self._uploads.grow(context["from"], key, data)
        super()._set_message(key, index, data, heartbeat, context)

    def _process_message(self, key: str, heartbeat: bool = False, context: Any = None) -> None:
        self._uploads.checked(context["from"], key)
        try:
            super()._process_message(key, heartbeat, context)
        finally:
            self._uploads.close(key)

    def _remove_message(self, key: str, context: Any = None) -> None:
        self._uploads.checked(context["from"], key)
        self._uploads.close(key)

    def _forget(self, key: str) -> None:
        self._object_store.get("message_cache", {}).pop(key, None)

    def _is_there(self, sender: str) -> bool:
        """In Hypha's own process it knows; elsewhere only patience helps."""
        workspace, _, client = sender.partition("/")
        return self._peers is None or bool(self._peers.is_local_client(workspace, client))


def _bare_error(error: Exception) -> dict[str, str]:
    return {"_rtype": "error", "_rvalue": str(error), "_rtrace": ""}


def _flat_array(value: dict[str, Any]) -> Any:
    """A typed array of JavaScript, which has no shape."""
    data = value.get("_rvalue")
    size = message.item_size(value.get("_rdtype"))
    shape = [len(data) // size] if isinstance(data, bytes) else None
    return message.restore({**value, "_rtype": "ndarray", "_rshape": shape})
