"""What `login` of the client libraries finds: a sentence at once, for there are no accounts to log in to.

Hypha's own service sends people to a login provider on the internet, and its clients wait for them.
"""

from __future__ import annotations

from typing import Any

from bioengine_server.foreign.hypha import use_login

NO_ACCOUNTS = (
    "This server has no accounts, so there is nothing to log in to. Leave the login out. Where the server needs a token, its "
    "admin makes one (`./bioengine token create NAME`): pass it as `token` to connect_to_server."
)


def replace_login() -> None:
    """Have Hypha register this service in place of its own."""
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
