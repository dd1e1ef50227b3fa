"""Who calls over plain HTTP: the token in `Authorization: Bearer`, or nobody in particular."""

from __future__ import annotations

from starlette.requests import Request

from bioengine_server.access.caller import Caller, token_id
from bioengine_server.hypha.authenticator import Authenticator, bearer


def caller_of(request: Request, authenticator: Authenticator) -> Caller:
    """The caller of a request. Raises AccessDenied and its like for a token that is not valid, TokenNeeded without one."""
    user = authenticator.admit(request.scope, bearer(request.headers))
    if user is None:
        # Those of different addresses take turns, as others do by their names.
        peer = (request.scope.get("client") or ("unknown", 0))[0]
        return Caller(user=f"anonymous-http-{peer}", workspace="public", client="http")
    return Caller(user=user.id, workspace=user.get_workspace(), client="http", token=token_id(user.roles))
