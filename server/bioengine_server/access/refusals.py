"""Requests that are refused before the dispatcher has them, for whoever counts and logs what becomes of requests.

They are refused in many places: where a connection comes in, where a body is received, where arguments are checked. Each of these
places tells `Access.refusals`, and does not need to know whether another one has told of the same error before.
"""

from __future__ import annotations

from collections.abc import Callable

from bioengine_server.access.caller import Caller

Listener = Callable[[Exception, Caller, str], None]

_KNOWN = "bioengine_is_known"  # an attribute of errors


class Refusals:
    """Of one server."""

    def __init__(self) -> None:
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Have `listener` called with each error, its caller, and the id of the model or an empty text. It must not raise."""
        self._listener = listener

    def tell(self, error: Exception, caller: Caller, model: str = "") -> bool:
        """A request is refused; returns whether anybody listens.

        Args:
            error: the reason. Errors that are known already are not told again.
            caller: whose request it is.
            model: the id that was asked for, as far as it is known.
        """
        if self._listener is None:
            return False
        if not is_known(error):
            mark_known(error)
            self._listener(error, caller, model)
        return True


def mark_known(error: BaseException) -> None:
    """Note on an error that whoever counts and logs requests knows of it."""
    setattr(error, _KNOWN, True)


def is_known(error: BaseException) -> bool:
    """Whether the error was marked."""
    return getattr(error, _KNOWN, False)
