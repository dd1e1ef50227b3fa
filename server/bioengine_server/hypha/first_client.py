"""If two clients use the same id, the first one stays connected and the second one is refused.

Hypha treats the refusal as a failure of its own, and its clean-up ends the first client's services and connection. If a client
connects with a token for that id, which every admin of a workspace can make, Hypha does not check at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hypha.core import UserInfo
from hypha.websocket import AuthenticationError

from bioengine_server.foreign.hypha import user_of_connected, wrap_websockets

_Check = Callable[[Any, str, str, UserInfo], Awaitable[None]]
_Authenticate = Callable[[Any, str | None, str | None, str, str | None], Awaitable[tuple[UserInfo, str | None]]]


def keep_first_client(is_own: Callable[[str], bool]) -> None:
    """Refuse a second client with the same id, without any other effect.

    Args:
        is_own: whether the endpoint `<workspace>/<client id>` is in this process, such as those of imjoy-rpc's clients.
    """

    def checking(check: _Check) -> _Check:
        async def check_client(self: Any, client_id: str, workspace: str, user: UserInfo) -> None:
            if is_own(f"{workspace}/{client_id}"):
                raise _taken(workspace, client_id)
            try:
                await check(self, client_id, workspace, user)
            except RuntimeError as error:
                raise AuthenticationError(str(error)) from error  # Hypha sends the error to the client

        return check_client

    def authenticating(authenticate: _Authenticate) -> _Authenticate:
        async def authenticate_user(
            self: Any, token: str | None, reconnection_token: str | None, client_id: str, workspace: str | None
        ) -> tuple[UserInfo, str | None]:
            user, workspace = await authenticate(self, token, reconnection_token, client_id, workspace)
            id = f"{workspace}/{client_id}"
            if reconnection_token and (is_own(id) or user_of_connected(id) not in (None, user.id)):
                raise _taken(workspace, client_id)
            return user, workspace

        return authenticate_user

    wrap_websockets("check_client", checking)
    wrap_websockets("authenticate_user", authenticating)


def _taken(workspace: str | None, client_id: str) -> AuthenticationError:
    return AuthenticationError(f"Client already exists and is active: {workspace}/{client_id}")
