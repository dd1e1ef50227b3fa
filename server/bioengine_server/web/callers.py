"""Who calls over plain HTTP: the token in `Authorization: Bearer`, or nobody in particular."""

from __future__ import annotations

from hypha.core.store import RedisStore
from starlette.datastructures import Headers

from bioengine_server.errors import AccessDenied
from bioengine_server.service.caller import Caller


async def caller_of(headers: Headers, store: RedisStore) -> Caller:
    """The caller of a request. Raises AccessDenied for a token that is not valid."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not scheme:
        return Caller(user="anonymous-http", workspace="public", client="http", anonymous=True)
    try:
        if scheme.lower() != "bearer":
            raise ValueError(scheme)
        user = await store.parse_user_token(token.strip())
    except Exception as error:  # whatever Hypha raises for a token
        raise AccessDenied from error
    return Caller(user=user.id, workspace=user.get_workspace(), client="http", anonymous=bool(user.is_anonymous))
