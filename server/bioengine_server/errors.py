"""What can go wrong in the server, one class each.

    command line -> stack           StackError: home or port in use, Triton does not start, ...
    package -> store                StoreError: a package that cannot be imported, an id that is not there
    client -> triton-client         RefusedArgument, Busy, TooLarge, TritonUnavailable
    client -> door, triton-client   NotLetIn; NoAccess: TokenNeeded, TokenExpired, ...; TooManyRequests
    HTTP -> triton-client, Triton   BadBody, AccessDenied, Forbidden, NoSuchModel, ModelNotLoaded, WrongMethod, besides these
    admin -> tokens                 BadTokenName, TokenExists, NoSuchToken, TokensUnreadable
    image file -> server            NoServer, NotConnected, RunFailed, and those of images/errors.py: of `run` and `demo`
    bench -> server                 BenchFailed: of `bench`

Each message says what was wrong, what was expected and what to do. What a model makes of a request is decided in the
runner (`bioengine_runner.errors`) and comes back as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bioengine_server.untrusted import shown

if TYPE_CHECKING:
    from datetime import datetime

    from bioengine_server.limits import SizeLimit


class BioEngineError(Exception):
    """An error with a message for the person it reaches."""


class StackError(BioEngineError):
    """The stack cannot start."""


class HomeInUse(StackError):
    def __init__(self, home: Path, owner: str) -> None:
        super().__init__(
            f"A BioEngine is already running with the home {home} ({owner}). "
            "Use that one, end it first (Ctrl-C where it runs), or start another with --home FOLDER and --port NUMBER."
        )


class PortInUse(StackError):
    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"Cannot listen on {host}:{port} ({reason}). "
            "Another program has this port, perhaps another BioEngine. End it, or choose another with --port NUMBER."
        )


class WeakSecret(StackError):
    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"{name} {reason}. Expected a secret of at least 32 characters that nobody can guess. {remedy}")


class UnsafeFolder(StackError):
    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"{folder} {reason}. It must be a folder that only you can enter, for what the running stack shares. "
            "Remove it; if it is the run dir, you can name another with BIOENGINE_RUN_DIR."
        )


class StoreError(BioEngineError):
    """Something about the model store."""


class NotAPackage(StoreError):
    def __init__(self, source: Path | str, reason: str) -> None:
        super().__init__(
            f"{shown(source, 300)} is not a bioimage.io model package: {reason}. "
            "Expected a folder or a .zip with an rdf.yaml and the files that it names."
        )


class InvalidPackage(StoreError):
    def __init__(self, source: Path | str, summary: str) -> None:
        super().__init__(
            f"The description in {shown(source, 300)} is not valid, so nothing was imported:\n{summary}\n"
            "Correct rdf.yaml, or get the package again from where it came."
        )


class BadId(StoreError):
    def __init__(self, id: str) -> None:
        super().__init__(
            f"'{shown(id)}' cannot be a model's id. Expected letters, digits, '.', '_' and single '-', beginning with a letter "
            "or digit, at most 128, not the model runner's own name nor half a DOI. Name one with --id ID."
        )


class BadModelId(StoreError):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:80]!r} is not a model id. Expected a nickname like 'affable-shark', a nickname with a version like "
            "'affable-shark/1.1', or a DOI like '10.5281/zenodo.5869899'. Drafts and other hubs are not asked."
        )


class FileExists(StoreError):
    def __init__(self, file: Path) -> None:
        super().__init__(f"{file} is there already. Remove it, or name another file with -o.")


class NotStored(StoreError):
    def __init__(self, id: str, known: Sequence[str]) -> None:
        have = f"Stored are: {', '.join(known)}." if known else "The store is empty."
        super().__init__(f"There is no model {id!r} in the store. {have}")


class StoreNotWritable(StoreError):
    def __init__(self, store: Path, reason: str) -> None:
        super().__init__(
            f"The model store {store} could not be written: {reason}. Nothing was changed. Give yourself access to it, make room "
            "on its disk (`./bioengine models prune` removes what is not used), or choose another with --home."
        )


class StoreReadOnly(StoreError):
    def __init__(self, store: Path) -> None:
        super().__init__(
            f"The model store {store} is read-only here, so nothing was changed. In Triton's container that is meant: use "
            "`docker compose exec server bioengine models ...`."
        )


class NotServedHere(StoreError):
    def __init__(self, id: str) -> None:
        super().__init__(
            f"{id} cannot be tested here: models are served elsewhere, in an environment of their own. With containers, run "
            f"`docker compose exec triton bioengine models test {id}`."
        )


class DownloadFailed(StoreError):
    def __init__(self, url: str, reason: str) -> None:
        parts = urlsplit(url)
        file = PurePosixPath(parts.path).name or "The file"
        super().__init__(
            f"{shown(file)} could not be downloaded from {shown(parts.hostname or url)}: {reason}. Nothing was stored. Try again "
            "in a while; if it lasts, get the package elsewhere and import it with `./bioengine models import`."
        )


class NotInCollection(StoreError):
    def __init__(self, id: str, places: Sequence[str], offers: str = "") -> None:
        super().__init__(
            f"There is no model {id!r} in the collection (asked: {shown(', '.join(places) or 'nobody', 300)}){offers}. "
            "Check the spelling, `./bioengine models search WORDS` finds ids; a package of your own is imported with "
            "`./bioengine models import`."
        )


class Offline(StoreError):
    def __init__(self, id: str) -> None:
        super().__init__(
            f"{id!r} was not looked for in the collection, since this server is offline: import its package with "
            "`./bioengine models import`, or leave out --offline and BIOENGINE_OFFLINE."
        )


class DownloadNotAllowed(StoreError):
    def __init__(self, id: str, who: str) -> None:
        super().__init__(
            f"{id!r} was not looked for in the collection: on this server {who} (BIOENGINE_DOWNLOAD). "
            f"Ask its admin for it: `./bioengine models pull {id}`."
        )


class NoServer(BioEngineError):
    def __init__(self, url: str) -> None:
        super().__init__(
            f"No BioEngine answers at {url}. Start one in another terminal with `./bioengine up`, or name another with "
            "--server-url."
        )


class NotConnected(BioEngineError):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"The server at {url} refused the connection: {reason} Commands take the token from BIOENGINE_TOKEN.")


class RunFailed(BioEngineError):
    """The server's answer to a request that it could not serve."""


class BenchFailed(BioEngineError):
    def __init__(self, client: str, reason: str) -> None:
        super().__init__(
            f"The measurements were stopped, since {client} did not get what it should: {reason}. A server that answers wrongly, "
            "or not at all, is not measured; `./bioengine up` and the log that it names may show why."
        )


class TooLittleSharedMemory(BioEngineError):
    def __init__(self, needed: int, free: int) -> None:
        super().__init__(
            f"The huge image was not measured: /dev/shm has {free / 1e9:.1f} GB free, and Triton passes the image and its result "
            f"there, {needed / 1e9:.1f} GB. Make it larger (`sudo mount -o remount,size=8G /dev/shm`, or in a container its "
            "shm_size), or leave out --huge."
        )


class RefusedArgument(BioEngineError):
    def __init__(self, name: str, advice: str) -> None:
        super().__init__(f"The argument '{name}' is refused: {advice}")
        self.advice = advice


class BadBody(BioEngineError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"The body of the request cannot be used: {reason}.")


class NoAccess(BioEngineError):
    """Somebody who may not use the server, or not any more."""


class TokenNeeded(NoAccess):
    def __init__(self, sign_of_proxy: str = "") -> None:
        proxied = f" Programs on its own machine need none; this came through a proxy, by its header {sign_of_proxy}."
        super().__init__(
            "This server needs a token: ask its admin for one (`./bioengine token create NAME`), and pass it as `token` to "
            f"connect_to_server, or over HTTP in the header `Authorization: Bearer <token>`.{proxied if sign_of_proxy else ''}"
        )


class TokenExpired(NoAccess):
    def __init__(self, name: str = "", expired: datetime | None = None) -> None:
        which, when = (f"The token '{name}'" if name else "The token"), (f" on {expired:%Y-%m-%d %H:%M} UTC" if expired else "")
        super().__init__(f"{which} expired{when}. Ask the server's admin for a new one (`./bioengine token create NAME`).")


class TokenRevoked(NoAccess):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"The token '{name}' was revoked by the server's admin and counts no more. Ask for a new one "
            "(`./bioengine token create NAME`)."
        )


class UnknownToken(NoAccess):
    def __init__(self) -> None:
        super().__init__(
            "The token is none of this server's any more: it was replaced, or its record is gone. Ask the server's admin for a "
            "new one (`./bioengine token create NAME`)."
        )


class TokensUnreadable(StackError, NoAccess):
    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(
            f"The tokens in {file.name} of the server's home cannot be read ({reason}), so none counts. The server's admin can "
            "put the file right, or remove it and make new tokens."
        )


class BadTokenName(BioEngineError):
    def __init__(self, name: str, longest: int) -> None:
        super().__init__(
            f"{name[:80]!r} cannot be a token's name. Expected small letters and digits, with single '-' between them, at most "
            f"{longest}, such as ada or napari-room-2."
        )


class TokenExists(BioEngineError):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is a valid token '{name}' already, and it is shown only once. Choose another name, or end the old one first: "
            f"`./bioengine token revoke {name}`."
        )


class NoSuchToken(BioEngineError):
    def __init__(self, name: str, known: Sequence[str]) -> None:
        have = f"There are: {', '.join(known)}." if known else "There is none; `./bioengine token create NAME` makes one."
        super().__init__(f"There is no token {name!r} in this home. {have}")


class TooManyRequests(BioEngineError):
    def __init__(self, limit: int, name: str, has_token: bool) -> None:
        who = f"The token '{name}' has" if name else "A token has" if has_token else "Clients without a token have, together,"
        remedy = (
            "for a token with more --requests" if has_token
            else "for a token (`./bioengine token create NAME`), or to raise BIOENGINE_ANONYMOUS_REQUESTS"
        )  # fmt: skip
        super().__init__(
            f"{who} {limit} request{'' if limit == 1 else 's'} under way already, and that is the limit. Wait for one to end "
            f"before the next is sent, or ask the server's admin {remedy}."
        )


class NoSuchPage(BioEngineError):
    def __init__(self, path: str) -> None:
        super().__init__(
            f"There is nothing at {path[:100]!r} here. Clients use /ws, /public/services/triton-client/execute and "
            "/triton/v2/...; /health/readiness says whether the server is well."
        )


class AccessDenied(NoAccess):
    def __init__(self) -> None:
        super().__init__(
            "The token is not valid. Over HTTP, send `Authorization: Bearer <token>` with a token of this server, or no "
            "such header."
        )


class Forbidden(BioEngineError):
    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is refused: {reason}")


class NotLetIn(BioEngineError):
    def __init__(self) -> None:
        super().__init__(
            "The token is not valid on this server, or not for the workspace. Connect with a token of this server and the "
            "workspace that it is for, or with neither."
        )


class NoSuchModel(BioEngineError):
    """A model that neither the store, nor the collection, nor Triton has."""


class ModelNotLoaded(BioEngineError):
    """A model that is there, and why it cannot be run."""


class WrongMethod(BioEngineError):
    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{path} cannot be asked with {method[:20]}. Expected {' or '.join(allowed)}.")


class Busy(BioEngineError):
    def __init__(self, waiting: int) -> None:
        super().__init__(f"The server is busy: {waiting} requests are waiting already. Try again in a minute.")


class CallerGone(BioEngineError):
    def __init__(self, caller: object) -> None:
        super().__init__(f"Not run: {caller} went away while the request waited.")


class Stopping(BioEngineError):
    def __init__(self) -> None:
        super().__init__("The server is being stopped. Nothing is wrong with the request: send it again when the server is back.")


class TooLarge(BioEngineError):
    def __init__(self, size: int, limit: SizeLimit, is_all: bool = True) -> None:
        """`is_all`: whether `size` is that of all inputs, or of what had come of them."""
        inputs = f"{size / 1e6:.0f} MB" if is_all else f"more than {size // 1_000_000} MB"
        super().__init__(
            f"The inputs are {inputs}, and {limit.whose} at most {limit.bytes / 1e6:.0f} MB in one request. "
            f"Send the image in parts, or {limit.remedy}."
        )


class TritonUnavailable(BioEngineError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The inference server did not answer ({reason}). It is being restarted if it belongs to this BioEngine: "
            "try again in a few seconds. If it lasts, ask the server's admin to look at its log."
        )
