"""Tokens of this server's Hypha, signed with the home's secret; Hypha need not be running."""

from __future__ import annotations

import asyncio
import os

from bioengine_server.hub.secrets import home_secret
from bioengine_server.settings import Settings

JWT_SECRET = "hypha-jwt"


def registration_token(settings: Settings, days: float) -> str:
    """A token with which a registration service may offer `triton-client` in the workspace `public`, for `days` days."""
    os.environ["HYPHA_JWT_SECRET"] = home_secret(settings.home, JWT_SECRET)
    from hypha.core import UserInfo, UserPermission
    from hypha.core.auth import create_scope, generate_auth_token

    user = UserInfo(
        id="bioengine-registration",
        is_anonymous=False,
        email=None,
        parent=None,
        roles=[],
        scope=create_scope({"public": UserPermission.read_write}, current_workspace="public"),
        expires_at=None,
    )
    return str(asyncio.run(generate_auth_token(user, int(days * 24 * 3600))))
