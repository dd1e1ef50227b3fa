"""HTTP responses for errors: a 4xx or 5xx status, and JSON with a code and a message."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError
from starlette.responses import JSONResponse

from bioengine_server.access.errors import BadBody, TooLarge
from bioengine_server.http.errors import WrongMethod
from bioengine_server.memory import give_back_soon
from bioengine_server.triton.errors import TritonError

_FAULT = "The server failed while it worked on this request. Ask its admin to look at its log."


def refusal(error: Exception) -> JSONResponse:
    """The response for a BioEngineError. Triton's clients read the key `error`, Hypha's clients `detail`."""
    if isinstance(error, (TooLarge, BadBody)):
        give_back_soon()  # what its body has taken
    text, code, status = _FAULT, "server_failed", 500
    if isinstance(error, BioEngineError):
        text, code, status = str(error), error.code, error.status
    elif isinstance(error, TypeError):
        text, code, status = str(error), "bad_argument", 400
    if isinstance(error, TritonError) and status == 500:
        status = 400  # Triton's error for inputs that a Python model does not accept
    headers = {"Retry-After": "5"} if status in (429, 503) else {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, WrongMethod):
        headers["Allow"] = ", ".join(error.allowed)
    return JSONResponse({"success": False, "error": text, "code": code, "detail": text}, status_code=status, headers=headers)
