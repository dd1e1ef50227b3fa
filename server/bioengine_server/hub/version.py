"""Hypha tells every client its version, which says which holes it has. Clients do not read it."""

from __future__ import annotations

import hypha.core.store
import hypha.websocket

from bioengine_server.errors import StackError

_MODULES = (hypha.core.store, hypha.websocket)


def hide_version() -> None:
    """Have Hypha name no version from now on. The key stays, for clients that show it. Raises StackError."""
    for module in _MODULES:
        if not hasattr(module, "__version__"):
            raise StackError(
                f"This Hypha is not the version that this server was made for: {module.__name__} has no __version__. Install the "
                "version that server/requirements.txt names."
            )
        module.__version__ = ""
