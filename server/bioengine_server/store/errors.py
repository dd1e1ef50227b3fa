"""Errors of packages, the model store and downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from bioengine_contract.errors import BioEngineError

from bioengine_server.untrusted import shown


class StoreError(BioEngineError):
    """An operation on the model store failed."""

    code = "store_failed"
    status = 404


class NotAPackage(StoreError):
    code = "not_a_package"

    def __init__(self, source: Path | str, reason: str) -> None:
        super().__init__(
            f"{shown(source, 300)} is not a bioimage.io model package: {reason}. "
            "Expected a folder or a .zip with an rdf.yaml and the files that it names."
        )


class InvalidPackage(StoreError):
    code = "invalid_package"

    def __init__(self, source: Path | str, summary: str) -> None:
        super().__init__(
            f"The description in {shown(source, 300)} is not valid, so nothing was imported:\n{summary}\n"
            "Correct rdf.yaml, or get the package again from its source."
        )


class BadId(StoreError):
    code = "bad_id"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"'{shown(id)}' cannot be a model's id. Expected letters, digits, '.', '_' and single '-', beginning with a letter "
            "or digit, at most 128, and neither the model runner's name nor the first half of a DOI, such as 10.5281. Choose one "
            "with --id ID."
        )


class FileExists(StoreError):
    code = "file_exists"

    def __init__(self, file: Path) -> None:
        super().__init__(f"{file} already exists. Remove it, or choose another file with -o.")


class NotStored(StoreError):
    code = "model_not_found"

    def __init__(self, id: str, known: Sequence[str]) -> None:
        have = f"Stored are: {', '.join(known)}." if known else "The store is empty."
        super().__init__(f"There is no model {id!r} in the store. {have}")


class StoreNotWritable(StoreError):
    code = "store_not_writable"

    def __init__(self, store: Path, reason: str) -> None:
        super().__init__(
            f"The model store {store} could not be written: {reason}. Nothing was changed. Give yourself access to it, free "
            "space on its disk (`./bioengine models prune --keep-gb 50` removes those that have not been used for longest), or "
            "choose another home with --home."
        )


class StoreReadOnly(StoreError):
    code = "store_read_only"

    def __init__(self, store: Path) -> None:
        super().__init__(
            f"The model store {store} is read-only here, so nothing was changed. In Triton's container this is intended: run "
            "`docker compose exec server bioengine models ...` instead."
        )


class NotServedHere(StoreError):
    code = "not_served_here"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"{id} cannot be tested here: this environment does not contain the model runner. With containers, run "
            f"`docker compose exec triton bioengine models test {id}`."
        )


class DownloadFailed(StoreError):
    code = "download_failed"

    def __init__(self, url: str, reason: str) -> None:
        parts = urlsplit(url)
        file = PurePosixPath(parts.path).name or "The file"
        super().__init__(
            f"{shown(file)} could not be downloaded from {shown(parts.hostname or url)}: {reason}. Nothing was stored. Try again "
            "later; if it still fails, get the package from elsewhere and import it with `./bioengine models import`."
        )


class NotInCollection(StoreError):
    code = "not_in_collection"

    def __init__(self, id: str, places: Sequence[str], offers: str = "") -> None:
        super().__init__(
            f"There is no model {id!r} in the collection (searched: {shown(', '.join(places) or 'nothing', 300)}){offers}. "
            "Check the spelling (`./bioengine models search WORDS` finds ids), or import a package of your own with "
            "`./bioengine models import`."
        )


class Offline(StoreError):
    code = "offline"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"{id!r} was not looked up in the collection, because this server is offline: import its package with "
            "`./bioengine models import`, or start the server without --offline and BIOENGINE_OFFLINE."
        )


class DownloadNotAllowed(StoreError):
    code = "download_not_allowed"

    def __init__(self, id: str, who: str) -> None:
        super().__init__(
            f"{id!r} was not looked up in the collection: on this server {who} (BIOENGINE_DOWNLOAD). "
            f"Ask its admin to download it: `./bioengine models pull {id}`."
        )
