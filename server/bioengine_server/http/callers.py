"""The caller of a plain HTTP request: the user of the token in `Authorization: Bearer`, or an anonymous one."""

from __future__ import annotations

from starlette.requests import Request

from bioengine_server.access.caller import Caller, token_id
from bioengine_server.hypha.authenticator import Authenticator, bearer


def caller_of(request: Request, authenticator: Authenticator) -> Caller:
    """The caller of a request. Raises a NoAccess error if the token is not valid, or if it is missing but needed."""
    user = authenticator.admit(request.scope, bearer(request.headers))
    if user is None:
        # Anonymous callers with different addresses count as different callers, which take turns.
        peer = (request.scope.get("client") or ("unknown", 0))[0]
        return Caller(user=f"anonymous-http-{peer}", workspace="public", client="http")
    return Caller(user=user.id, workspace=user.get_workspace(), client="http", token=token_id(user.roles))
