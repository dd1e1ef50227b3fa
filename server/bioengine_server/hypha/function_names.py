"""Which functions a name in a message means: those that were offered under it, and nothing that is merely reached from there.

The libraries look names up with `getattr`, so that a session's function leads on to its module, and from there to everything.
Here a name is looked up in plain maps alone, and lists within a service.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SERVICES = "services"


def find(store: Any, name: str | Sequence[str]) -> Any:
    """What is offered under a name, `services.<id>.<function>` or `<session>.<function>`. Raises KeyError.

    Args:
        store: the object store of an RPC end.
        name: with dots, or split at them.
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
