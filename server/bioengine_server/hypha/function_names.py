"""Look up the function that a name in a message stands for: only functions that were offered under that name.

The libraries look names up with `getattr`, so a name could lead from a session's function to its module, and from there to
everything. Here names are looked up only in plain maps, and in lists within a service.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SERVICES = "services"


def find(store: Any, name: str | Sequence[str]) -> Any:
    """The object that is offered as `services.<id>.<function>` or `<session>.<function>`. Raises KeyError.

    Args:
        store: the object store of an RPC endpoint.
        name: the name, as a text with dots or split at the dots.
    """
    parts = name.split(".") if isinstance(name, str) else list(name)
    found = store
    for part in parts:
        if isinstance(found, dict) and isinstance(part, str) and dict.__contains__(found, part):
            found = dict.__getitem__(found, part)
        elif isinstance(found, (list, tuple)) and parts[0] == _SERVICES and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise KeyError(".".join(map(str, parts))[:80])
    return found
