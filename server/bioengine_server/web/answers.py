"""Errors as HTTP answers: a status of 4xx or 5xx, and JSON with what was wrong and what to do."""

from __future__ import annotations

from starlette.responses import JSONResponse

from bioengine_server.access.errors import HostNotAllowed
from bioengine_server.errors import (
    BadBody,
    BioEngineError,
    Busy,
    Forbidden,
    NoAccess,
    NoSuchModel,
    NoSuchPage,
    StoreError,
    TooLarge,
    TooManyRequests,
    TritonUnavailable,
    WrongMethod,
)
from bioengine_server.memory import give_back_soon
from bioengine_server.triton.api import TritonError
from bioengine_server.web.errors import NoParts

_STATUS: list[tuple[type[Exception], int]] = [
    (HostNotAllowed, 421),
    (TooLarge, 413),
    (BadBody, 400),
    (Busy, 429),
    (TooManyRequests, 429),
    (NoAccess, 401),
    (Forbidden, 403),
    (WrongMethod, 405),
    (NoSuchModel, 404),
    (NoSuchPage, 404),
    (StoreError, 404),
    (NoParts, 416),
    (TritonUnavailable, 503),
    (BioEngineError, 400),
    (TypeError, 400),
]


def refusal(error: Exception) -> JSONResponse:
    """The answer for an error of ours. `error` is Triton's key, which its clients read; `detail` is Hypha's."""
    if isinstance(error, (TooLarge, BadBody)):
        give_back_soon()  # what its body has taken
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if isinstance(error, TritonError) and error.status != 500:
        status = error.status  # 500 is what Triton says of inputs that a Python model does not take
    text = str(error) if status != 500 else "The server failed while it worked on this request. Ask its admin to look at its log."
    headers = {"Retry-After": "5"} if status in (429, 503) else {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"success": False, "error": text, "detail": text}, status_code=status, headers=headers)
