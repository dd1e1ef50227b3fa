"""The base of all errors that reach a person, and how one survives its way through Triton.

Each error's class has a `code`, by which programs tell errors apart, and an HTTP `status`; its message says what was wrong, what
was expected and what to do. Errors stand beside what they belong to: `package_errors`, `tensors.errors`, `model_errors`.
"""

from __future__ import annotations

import re
from typing import ClassVar

# Triton wraps a message of ours into its own text and a traceback; the marks find it again on the other side.
_OPEN, _CLOSE = "«bioengine ", "»"
_MARKED = re.compile("«bioengine (?:\\[([a-z_]{1,40})\\] )?(.*?)»", flags=re.DOTALL)


class BioEngineError(Exception):
    """An error with a message for the person it reaches."""

    code: ClassVar[str] = "error"
    """Tells programs what went wrong; stays the same when the message changes."""

    status: ClassVar[int] = 400
    """Of the HTTP response."""


class RequestError(BioEngineError):
    """A request for a model that cannot be served; clients get it as `{"success": False, "error": message, "code": code}`."""

    code = "request_failed"

    def marked(self) -> str:
        """The message and the code in marks that survive a way through Triton."""
        return f"{_OPEN}[{self.code}] {self}{_CLOSE}"


class RemoteError(RequestError):
    """A `RequestError` of another process, as it came."""

    def __init__(self, message: str, code: str = RequestError.code) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # of this one alone
        self.status = _status_of(code)  # type: ignore[misc]


def _status_of(code: str) -> int:
    """The HTTP status of the errors with a code, where this process knows them."""
    kinds: list[type[RequestError]] = [RequestError]
    for kind in kinds:  # which grows meanwhile
        kinds += kind.__subclasses__()
    return next((kind.status for kind in kinds if kind.code == code), RequestError.status)


class BadRequest(RequestError):
    """A request that is not in the form that is documented."""

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
    """The error within a text of Triton's, or None where it has none of ours."""
    found = _MARKED.search(text)
    return RemoteError(found[2], found[1] or RequestError.code) if found else None


def raise_marked(text: str) -> None:
    """Raise the error within a text of Triton's, where it has one of ours: in no variable, which would keep its frames alive."""
    if found := _MARKED.search(text):
        raise RemoteError(found[2], found[1] or RequestError.code)


def shorten(value: object, limit: int = 80) -> str:
    """`repr(value)`, cut where a message would become unreadable."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
