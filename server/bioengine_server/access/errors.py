"""Errors for requests that are refused first: because of who sends them, how many there are, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from bioengine_contract.errors import BioEngineError

from bioengine_server.errors import StackError
from bioengine_server.limits import SizeLimit
from bioengine_server.network.errors import Forbidden
from bioengine_server.untrusted import quoted


class Busy(BioEngineError):
    code = "busy"
    status = 429

    def __init__(self, waiting: int) -> None:
        super().__init__(f"The server is busy: {waiting} requests are waiting already. Try again in a minute.")


class TooLarge(BioEngineError):
    code = "too_large"
    status = 413

    def __init__(self, size: int, limit: SizeLimit, is_all: bool = True) -> None:
        """`is_all`: whether `size` is that of all inputs, or only of the part received so far."""
        inputs = f"{size / 1e6:.0f} MB" if is_all else f"more than {size // 1_000_000} MB"
        super().__init__(
            f"The inputs are {inputs}, but {limit.whose} at most {limit.bytes / 1e6:.0f} MB in one request. "
            f"Send the image in parts, or {limit.remedy}."
        )


class NoAccess(BioEngineError):
    """The client may not use the server, or not any longer."""

    code = "no_access"
    status = 401


class TokenNeeded(NoAccess):
    code = "token_needed"

    def __init__(self, sign_of_proxy: str = "") -> None:
        proxied = (
            f" Programs on its own machine need none, but this request came through a proxy, as its header {sign_of_proxy} shows."
        )
        super().__init__(
            "This server needs a token: ask its admin for one (`./bioengine token create NAME`), and pass it as `token` to "
            f"connect_to_server, or over HTTP in the header `Authorization: Bearer <token>`.{proxied if sign_of_proxy else ''}"
        )


class TokenExpired(NoAccess):
    code = "token_expired"

    def __init__(self, name: str = "", expired: datetime | None = None) -> None:
        which, when = (f"The token '{name}'" if name else "The token"), (f" on {expired:%Y-%m-%d %H:%M} UTC" if expired else "")
        super().__init__(f"{which} expired{when}. Ask the server's admin for a new one (`./bioengine token create NAME`).")


class TokenRevoked(NoAccess):
    code = "token_revoked"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The token '{name}' has been revoked. Ask the server's admin for a new one (`./bioengine token create NAME`)."
        )


class UnknownToken(NoAccess):
    code = "unknown_token"

    def __init__(self) -> None:
        super().__init__(
            "The token is no longer known to this server: it was replaced, or its record was removed. Ask the server's admin "
            "for a new one (`./bioengine token create NAME`)."
        )


class TokenOfWorker(NoAccess):
    code = "token_of_worker"

    def __init__(self) -> None:
        super().__init__(
            "This token is only for workers, which join the server with it. Ask the server's admin for a token for clients "
            "(`./bioengine token create NAME`)."
        )


class TokenOfClient(NoAccess):
    code = "token_of_client"

    def __init__(self) -> None:
        super().__init__(
            "This token is for clients, and workers cannot join with it. Create one for workers on the server's machine: "
            "`./bioengine token create NAME --worker`."
        )


class TokenOfRegistration(NoAccess):
    code = "token_of_registration"

    def __init__(self) -> None:
        super().__init__(
            "This token is for `bioengine register`, which was replaced by `bioengine worker`. Create one for workers on the "
            "server's machine: `./bioengine token create NAME --worker`."
        )


class WorkerTokenNeeded(NoAccess):
    code = "worker_token_needed"

    def __init__(self) -> None:
        super().__init__(
            "Workers need a token. Create one on the server's machine (`./bioengine token create NAME --worker > worker.token`), "
            "and give the file to the worker with --token-file."
        )


class TokensUnreadable(StackError, NoAccess):
    code = "tokens_unreadable"
    status = 401

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(
            f"The tokens in {file.name} of the server's home cannot be read ({reason}), so none is accepted. The server's admin "
            "can repair the file, or remove it and create new tokens."
        )


class BadTokenName(BioEngineError):
    code = "bad_token_name"

    def __init__(self, name: str, longest: int) -> None:
        super().__init__(
            f"{name[:80]!r} cannot be a token's name. Expected lowercase letters and digits, with single '-' between them, at "
            f"most {longest}, such as ada or napari-room-2."
        )


class TokenExists(BioEngineError):
    code = "token_exists"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is already a valid token '{name}', and tokens are shown only once. Choose another name, or revoke the old "
            f"one first: `./bioengine token revoke {name}`."
        )


class NoSuchToken(BioEngineError):
    code = "no_such_token"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        have = f"There are: {', '.join(known)}." if known else "There are none yet; `./bioengine token create NAME` creates one."
        super().__init__(f"There is no token {name!r} in this home. {have}")


class TooManyRequests(BioEngineError):
    code = "too_many_requests"
    status = 429

    def __init__(self, limit: int, name: str, has_token: bool) -> None:
        who = f"The token '{name}' has" if name else "A token has" if has_token else "Clients without a token have, together,"
        remedy = (
            "for a token with more --requests" if has_token
            else "for a token (`./bioengine token create NAME`), or to raise BIOENGINE_ANONYMOUS_REQUESTS"
        )  # fmt: skip
        super().__init__(
            f"{who} {limit} request{'' if limit == 1 else 's'} in progress already, which is the limit. Wait for one to finish "
            f"before you send the next, or ask the server's admin {remedy}."
        )


class AccessDenied(NoAccess):
    code = "access_denied"

    def __init__(self) -> None:
        super().__init__(
            "The token is not valid. Over HTTP, send `Authorization: Bearer <token>` with a token of this server, or leave "
            "the header out."
        )


class NotLetIn(BioEngineError):
    code = "not_let_in"

    def __init__(self) -> None:
        super().__init__(
            "The token is not valid on this server, or not for the workspace. Connect with a token of this server and the "
            "workspace of that token, or without both."
        )


class WorkspaceDenied(Forbidden):
    """The client has no permission for the workspace that it names."""

    code = "workspace_denied"

    def __init__(self, workspace: str) -> None:
        BioEngineError.__init__(
            self,
            f"Permission denied for the workspace {quoted(workspace)}: it is not yours. Leave the workspace "
            "out, or connect with a token for it.",
        )


class TooManyHandshakes(BioEngineError):
    """More clients connect at once than the server can handle."""

    code = "too_many_handshakes"

    def __init__(self) -> None:
        super().__init__("The server is busy: too many clients connect at once. Try again in a minute.")


class BadBody(BioEngineError):
    code = "bad_body"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The body of the request cannot be used: {reason}.")
