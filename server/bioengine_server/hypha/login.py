"""The login service for the client libraries' `login`: it answers at once that there are no accounts to log in to.

Hypha's own service sends users to a login provider on the internet, and its clients wait for them.
"""

from __future__ import annotations

from typing import Any

from bioengine_server.foreign.hypha import use_login

NO_ACCOUNTS = (
    "This server has no accounts, so there is nothing to log in to. Connect without a login. If the server needs a token, its "
    "admin can create one (`./bioengine token create NAME`): pass it as `token` to connect_to_server."
)


def replace_login() -> None:
    """Make Hypha register this service instead of its own."""
    use_login(_login_service)


def _login_service(store: Any) -> dict[str, Any]:
    async def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(NO_ACCOUNTS)

    async def index(event: Any = None) -> dict[str, Any]:
        return {"status": 200, "headers": {"Content-Type": "text/plain; charset=utf-8"}, "body": NO_ACCOUNTS + "\n"}

    return {
        "id": "hypha-login",
        "name": "Login",
        "type": "functions",
        "description": NO_ACCOUNTS,
        "config": {"visibility": "public"},
        "index": index,
        "start": refuse,
        "check": refuse,
        "report": refuse,
        "profile": index,
        "logout": refuse,
    }
