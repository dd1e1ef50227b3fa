"""Who calls over plain HTTP: the token in `Authorization: Bearer`, or nobody in particular."""

from __future__ import annotations

from starlette.datastructures import Headers

from bioengine_server.access.door import Doorkeeper, bearer
from bioengine_server.service.caller import Caller, token_id


def caller_of(headers: Headers, keeper: Doorkeeper) -> Caller:
    """The caller of a request. Raises AccessDenied and its like for a token that is not valid, TokenNeeded without one."""
    user = keeper.admit(headers, bearer(headers))
    if user is None:
        return Caller(user="anonymous-http", workspace="public", client="http")
    return Caller(user=user.id, workspace=user.get_workspace(), client="http", token=token_id(user.roles))
