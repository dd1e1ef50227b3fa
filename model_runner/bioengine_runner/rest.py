"""Give memory back after large images: a while after the last one, so that who sends many does not wait for memory each time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

# After the last large image. Memory is back well within a minute of it.
AFTER = 15.0  # seconds


class Rest:
    """A timer, which begins anew with each large image."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        """`give_back`: is called in a thread of its own."""
        self._give_back = give_back
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def begin_anew(self) -> None:
        """A large image has been run."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(AFTER, self._rest)
            self._timer.daemon = True
            self._timer.start()

    def _rest(self) -> None:
        try:
            self._give_back()
        except Exception as error:
            logger.warning("Memory could not be given back: %s", error)
