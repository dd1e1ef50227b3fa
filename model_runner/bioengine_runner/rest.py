"""Return memory a while after the last large image: a series of large images then does not wait for memory each time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

# How long after the last large image.
AFTER = 15.0  # seconds


class Rest:
    """A timer that starts again with each large image."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        """`give_back`: called in a thread of its own."""
        self._give_back = give_back
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def start_again(self) -> None:
        """To be called when a large image has been run."""
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
            logger.warning("Memory could not be returned: %s", error)
