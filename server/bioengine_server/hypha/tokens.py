"""The tokens that clients get: Hypha's tokens, signed with the home's secret, with the id of the token's record as a role.

Hypha copies roles to every token that it derives from a token, for reconnections and by `generate_token`. So derived tokens
belong to the record of the original token, and become invalid with it. Tokens of anonymous clients have no such role, and are
not valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import hypha.core.auth
from bioengine_contract.errors import BioEngineError
from hypha.core import UserInfo, UserPermission
from hypha.core.auth import jwt

from bioengine_server.access.caller import TOKEN_ROLE, token_id
from bioengine_server.access.errors import AccessDenied, TokenExpired, TokenOfClient, TokenOfRegistration, TokenOfWorker
from bioengine_server.access.registry import Token, TokenRegistry
from bioengine_server.foreign import hypha as border

_NAME = re.compile(r"[A-Za-z0-9_.|-]{1,128}")

# The algorithm with which Hypha signs; it would also accept those of an account service on the internet.
_ALGORITHM = "HS256"


def use_secret(secret: str) -> None:
    """Sign and verify tokens with a home's secret from now on."""
    border.use_secret(secret)


def sign(token: Token) -> str:
    """The signed token, to be given to its user."""
    user = UserInfo(
        id=f"token-{token.name}",
        is_anonymous=False,
        email=None,
        parent=None,
        roles=[f"{TOKEN_ROLE}{token.id}"],
        scope=_own_scope(token),
        expires_at=None,
    )
    seconds = int((token.expires - token.created).total_seconds())
    return str(asyncio.run(hypha.core.auth.generate_auth_token(user, seconds)))


def _own_scope(token: Token) -> Any:
    return hypha.core.auth.create_scope({f"ws-user-token-{token.name}": UserPermission.admin})


def check_scopes() -> None:
    """Make Hypha refuse to sign tokens with names that would grant further permissions.

    Hypha 0.21 joins names that clients choose (their own, further scopes) with spaces, and later reads the text as a list of
    grants.
    """

    def checked(generate: Callable[[Any], str]) -> Callable[[Any], str]:
        def generate_checked(scope: Any) -> str:
            names = [*scope.workspaces, *filter(None, (scope.client_id, scope.current_workspace))]
            if scope.extra_scopes or not all(map(is_name, names)):
                raise PermissionError("A token names one workspace and one client, in letters, digits, '-', '_', '.' and '|'.")
            return str(generate(scope))

        return generate_checked

    border.wrap_scope(checked)


def is_name(value: object) -> bool:
    """Whether `value` can be a client's or workspace's name."""
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


class Verifier:
    """Verifies tokens and returns their users, for Hypha and for the server itself."""

    def __init__(self, registry: TokenRegistry) -> None:
        self._registry = registry

    async def replace_hyphas(self) -> None:
        """Make Hypha verify every token with this object."""
        await border.use_verifier(self.user_of)

    def user_of(self, token: Any) -> UserInfo:
        """The user of a token. Raises AccessDenied, UnknownToken, TokenRevoked, TokenExpired."""
        try:
            if jwt.get_unverified_header(token).get("alg") != _ALGORITHM:
                raise AccessDenied
            user = border.parse_token(token)
        except BioEngineError:
            raise
        except Exception as error:  # Hypha and its library may raise anything for a token
            raise self._reason(token, error) from error
        if id := token_id(user.roles):
            known = self._registry.checked(id)
            if known.registration:
                raise TokenOfRegistration
            if known.worker:
                raise TokenOfWorker
        return user

    def check_worker(self, token: str) -> None:
        """Let a worker in. Raises TokenOfClient, AccessDenied, UnknownToken, TokenRevoked, TokenExpired."""
        with contextlib.suppress(TokenOfWorker):
            self.user_of(token)
            raise TokenOfClient

    def _reason(self, token: Any, error: Exception) -> BioEngineError:
        """Why Hypha refused a token. It checks the date only if the signature is valid."""
        if isinstance(error.__cause__, jwt.ExpiredSignatureError):
            try:
                claims = jwt.get_unverified_claims(token)
            except jwt.JWTError:
                return AccessDenied()
            known = self._registry.find(token_id(_roles(claims)))
            return TokenExpired(known.name, known.expires) if known else TokenExpired()
        return AccessDenied()


def _roles(claims: dict[str, Any]) -> Iterable[str]:
    return next((value for key, value in claims.items() if key.endswith("roles") and isinstance(value, list)), [])
