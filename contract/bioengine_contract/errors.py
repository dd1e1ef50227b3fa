"""The base classes of all errors that are shown to people, and how such an error is passed through Triton.

Each error's class has a `code`, by which programs tell errors apart, and an HTTP `status`; its message says what was wrong, what
was expected and what to do. The errors of this package are in `package_errors`, `tensors.errors` and `model_errors`.
"""

from __future__ import annotations

import re
from typing import ClassVar

# Triton wraps our messages in text of its own and a traceback. These marks let the receiver find the message in it.
_OPEN, _CLOSE = "«bioengine ", "»"
_MARKED = re.compile("«bioengine (?:\\[([a-z_]{1,40})\\] )?(.*?)»", flags=re.DOTALL)


class BioEngineError(Exception):
    """An error whose message is written for users and admins."""

    code: ClassVar[str] = "error"
    """Tells programs what went wrong. It stays the same when the wording of the message changes."""

    status: ClassVar[int] = 400
    """The status of the HTTP response."""


class RequestError(BioEngineError):
    """A request for a model that cannot be served; clients get it as `{"success": False, "error": message, "code": code}`."""

    code = "request_failed"

    def marked(self) -> str:
        """The code and the message between marks, which `unmark` finds again in an error of Triton's."""
        return f"{_OPEN}[{self.code}] {self}{_CLOSE}"


class RemoteError(RequestError):
    """A `RequestError` that another process raised, with its message and code unchanged."""

    def __init__(self, message: str, code: str = RequestError.code) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # of this instance only
        self.status = _status_of(code)  # type: ignore[misc]


def _status_of(code: str) -> int:
    """The HTTP status of the error class with this code; that of RequestError if this process does not know the code."""
    kinds: list[type[RequestError]] = [RequestError]
    for kind in kinds:  # the list grows while it is read
        kinds += kind.__subclasses__()
    return next((kind.status for kind in kinds if kind.code == code), RequestError.status)


class BadRequest(RequestError):
    """The request does not have the documented form."""

    code = "bad_request"


class Fault(BioEngineError):
    """Anything else: a fault of the server's own. The log has all of it, and the client what finds it there."""

    code = "server_failed"
    status = 500

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"The server failed while it worked on this request. Ask its admin to look for task {task_id} in its log."
        )


def unmark(text: str) -> RemoteError | None:
    """The marked error in a text from Triton; None if there is none."""
    found = _MARKED.search(text)
    return RemoteError(found[2], found[1] or RequestError.code) if found else None


def raise_marked(text: str) -> None:
    """Raise the marked error in a text from Triton, if there is one. No variable holds it, which would keep its frames alive."""
    if found := _MARKED.search(text):
        raise RemoteError(found[2], found[1] or RequestError.code)


def shorten(value: object, limit: int = 80) -> str:
    """`repr(value)`, cut to `limit` characters so that an error message stays readable."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
