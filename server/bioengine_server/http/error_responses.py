"""Errors as HTTP answers: a status of 4xx or 5xx, and JSON with a code, what was wrong and what to do."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError
from starlette.responses import JSONResponse

from bioengine_server.access.errors import BadBody, TooLarge
from bioengine_server.memory import give_back_soon
from bioengine_server.triton.errors import TritonError

_FAULT = "The server failed while it worked on this request. Ask its admin to look at its log."


def refusal(error: Exception) -> JSONResponse:
    """The answer for an error of ours. `error` is Triton's key, which its clients read; `detail` is Hypha's."""
    if isinstance(error, (TooLarge, BadBody)):
        give_back_soon()  # what its body has taken
    text, code, status = _FAULT, "server_failed", 500
    if isinstance(error, BioEngineError):
        text, code, status = str(error), error.code, error.status
    elif isinstance(error, TypeError):
        text, code, status = str(error), "bad_argument", 400
    if isinstance(error, TritonError) and status == 500:
        status = 400  # what Triton says of inputs that a Python model does not take
    headers = {"Retry-After": "5"} if status in (429, 503) else {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"success": False, "error": text, "code": code, "detail": text}, status_code=status, headers=headers)
