"""When each stored package was last used: `<home>/models/usage.json`, for `models list` and `models prune`."""

from __future__ import annotations

import datetime
import json
import logging
import time
from pathlib import Path

from bioengine_contract.store import read_aliases

from bioengine_server.errors import UnsafeFolder
from bioengine_server.store import layout

logger = logging.getLogger(__name__)

USAGE_FILE = "usage.json"
_WRITE_INTERVAL = 30.0  # seconds; if the process dies, recent uses are lost, which does no harm


def last_uses(store: Path) -> dict[str, datetime.datetime]:
    """The time of the last use of each package, by its key `<id>/<version>`."""
    try:
        document = json.loads((store / USAGE_FILE).read_text(encoding="utf-8"))
        return {place: datetime.datetime.fromisoformat(used) for place, used in document.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


class UsageLog:
    """Collects uses in memory and writes them from time to time."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._uses: dict[str, datetime.datetime] = {}
        self._written = 0.0

    def used(self, place: str) -> bool:
        """Note that the package at `place` was used now. Returns True when it is time to `write`."""
        self._uses[place] = datetime.datetime.now(datetime.UTC)
        return time.monotonic() - self._written > _WRITE_INTERVAL

    def write(self) -> None:
        """Write the uses since the last time; waits while another process changes the store."""
        self._written = time.monotonic()
        new, self._uses = self._uses, {}
        if not new or not self._store.is_dir():  # `register` for a Triton on another machine has no store
            return
        try:
            with layout.lock(self._store):
                uses = {**last_uses(self._store), **new}
                stored = set(read_aliases(self._store).values())
                document = {place: used.isoformat(timespec="seconds") for place, used in uses.items() if place in stored}
                layout.write_json(self._store / USAGE_FILE, document)
        except (OSError, UnsafeFolder, layout.StoreBusy) as error:
            logger.warning("The last uses of models could not be written: %s", error)
