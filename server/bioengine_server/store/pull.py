"""Download a package: from a description in the collection to a package in the store.

    description -> the files it names -> downloaded and verified -> the store

Only the files that are needed to run, test and show a model are downloaded: of its weights, those that the runner can run, or
from which such weights are made. Code of a package is downloaded as data; it is run only if the admin trusts the package.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import unicodedata
from collections.abc import AsyncIterator, Callable, Container, Iterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from bioengine_contract.weights import CONVERTIBLE, RUN_CODE, RUNNABLE

from bioengine_server.store import layout
from bioengine_server.store.collection import Collection, Description
from bioengine_server.store.download import Downloader, NotThere, Progress, nobody
from bioengine_server.store.errors import DownloadFailed, NotAPackage
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.named_files import NamedFile, Role, beside, is_url, name_in, named_files, weights_files
from bioengine_server.store.names import NameTaken, ReservedName, claimed_names, is_doi, proposed_id, shipped_package
from bioengine_server.store.package import MAX_DEPTH, OURS, RDF
from bioengine_server.store.yaml_text import dumped
from bioengine_server.untrusted import shown

_MAX_FILES = 1000  # files that a description names
_FILES_OF_FULL_LENGTH = 4  # a package may take this many times BIOENGINE_DOWNLOAD_TIMEOUT in total
_MAX_CLAIMS = 4  # names claimed by a description that are looked up in the collection
# Files besides the weights, and whether the package is useless without them.
_FETCHED = {Role.PROCESSING: True, Role.TEST: True, Role.SAMPLE: False, Role.COVER: False, Role.DOCUMENTATION: False}
# Attachments that contain tensors of ONNX weights; format 0.4 has no other way to declare them.
_EXTERNAL_DATA = (".data", ".onnx_data")


async def pull(
    store: ModelStore,
    downloader: Downloader,
    collection: Collection,
    description: Description,
    max_size: int,
    progress: Progress = nobody,
) -> StoredModel:
    """Download the package of `description` into the store, under the requested name and the names that the collection confirms.

    Args:
        store: the store that gets the package.
        downloader: downloads the files.
        collection: the collection that contains the description.
        description: the description of the requested model.
        max_size: the largest size of the package, in bytes.
        progress: called for each file.

    Raises DownloadFailed, NotAPackage, InvalidPackage, BadId, NameTaken, ReservedName, StoreNotWritable.
    """
    ids, further_names = await _names(collection, description)
    raw = copy.deepcopy(description.raw)
    files = list(itertools.islice(_wanted(raw), _MAX_FILES + 1))
    if len(files) > _MAX_FILES:
        raise NotAPackage(description.url, f"it names more than {_MAX_FILES} files")
    with store.incoming(description.url) as folder:
        async with _in_time(description.url, downloader.timeout * _FILES_OF_FULL_LENGTH):
            await _fetch(files, folder, description, downloader, max_size, progress)
        as_it_came = raw == description.raw
        (folder / RDF).write_bytes(description.content if as_it_came else await asyncio.to_thread(dumped, raw))
        try:
            return await _to_its_end(store.adopt, folder, description.url, ids[0], further_names)
        except (NameTaken, ReservedName):
            if len(ids) == 1:
                raise
            return await _to_its_end(store.adopt, folder, description.url, ids[1], further_names)


async def _to_its_end(adopt: Callable[..., StoredModel], *arguments: Any) -> StoredModel:
    """Run `adopt` in a thread. Who is cancelled waits for it: its folder would be emptied while it becomes a stored package."""
    running = asyncio.get_running_loop().run_in_executor(None, adopt, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        running.exception()  # it was seen: who is cancelled is not told
        raise


async def _fetch(
    files: list[tuple[NamedFile, bool]],
    folder: Path,
    description: Description,
    downloader: Downloader,
    max_size: int,
    progress: Progress,
) -> None:
    """Download `files` (each with whether it is required) to `folder`, and change their names in the description accordingly."""
    names: dict[str, str] = {}
    paths = {_plain_path(file.source) for file in named_files(description.raw) if not is_url(file.source)}
    left = max_size
    for file, is_required in files:
        source = file.source
        if source not in names:
            name = _local_name(description.url, source, taken=set(names.values()), paths=paths)
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            url = source if is_url(source) else beside(description.url, source)
            try:
                await downloader.fetch_file(url, target, file.sha256, left, progress)
            except NotThere as error:
                if is_required:
                    raise DownloadFailed(url, "the file does not exist (404), although the description names it") from error
                continue
            except DownloadFailed:
                if is_required:
                    raise
                continue
            left -= target.stat().st_size
            names[source] = name
        file.rename(names[source])


@asynccontextmanager
async def _in_time(url: str, seconds: float) -> AsyncIterator[None]:
    """Raises DownloadFailed if the context's body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        limit = f"{_FILES_OF_FULL_LENGTH} times BIOENGINE_DOWNLOAD_TIMEOUT"
        raise DownloadFailed(url, f"not all files that it names had arrived after {seconds:g} s, {limit}") from error


async def _names(collection: Collection, description: Description) -> tuple[list[str], frozenset[str]]:
    """The id under which to store a model, the one to use if that already means another package, and its further names.

    Names that the description claims are used only if the collection confirms them.
    """
    asked, raw = description.id, description.raw
    is_pinned = all(file.sha256 is not None for file, _ in _wanted(raw) if file.computes or file.role is Role.ATTACHMENT)
    confirmed = {
        name
        for name in sorted(claimed_names(raw) - {asked})[:_MAX_CLAIMS]
        if await collection.confirms(name, description, is_pinned)
    }
    if not is_doi(asked):
        ids = [asked.partition("/")[0]]
    else:
        ids = [asked.replace("/", "_")]
        if (proposed := proposed_id(raw)) in confirmed and proposed is not None:
            ids.insert(0, proposed)
    for id in ids:
        layout.check_id(id)
        if shipped_package(id) is not None:
            raise ReservedName(id)
    return ids, frozenset({asked} | confirmed)


def _wanted(raw: dict[str, Any]) -> Iterator[tuple[NamedFile, bool]]:
    """Which of the files that a description names to download, each with whether it is required.

    Of the weights, those that the runner can run without code of the package. Only if there are none, those from which such
    weights can be made, with code that they need.
    """
    weights = raw.get("weights")
    entries = {name: entry for name, entry in weights.items() if isinstance(entry, dict)} if isinstance(weights, dict) else {}
    named = {name for name, entry in entries.items() if isinstance(entry.get("source"), str)}
    chosen = [name for name in RUNNABLE if name in named and name not in RUN_CODE]
    chosen = chosen or [name for name in CONVERTIBLE if name in named][:1]
    for name in chosen:
        yield from ((file, True) for file in weights_files(name, entries[name]) if file.computes or file.role is Role.ATTACHMENT)
    for file in named_files(raw):
        if file.weights is not None:
            continue
        if file.role in _FETCHED:
            yield file, _FETCHED[file.role]
        elif file.role is Role.ATTACHMENT and "onnx" in chosen and file.source.endswith(_EXTERNAL_DATA):
            yield file, True


def _local_name(description_url: str, source: str, taken: set[str], paths: Container[str] = ()) -> str:
    """The path of a file within the package. Raises NotAPackage for a name that would lead out of it.

    Args:
        description_url: for messages.
        source: the file's path or URL in the description.
        taken: the paths that other sources already have.
        paths: all paths that the description names, normalised. A file from a URL gets none of them, even if that file is
        missing.
    """
    path = PurePosixPath(name_in(source) if is_url(source) else source.replace("\\", "/"))
    own = None if is_url(source) else _plain_path(source)
    is_outside = path.is_absolute() or PureWindowsPath(path).anchor or ".." in path.parts or len(path.parts) > MAX_DEPTH
    is_ours = len(path.parts) > 1 and path.parts[0].casefold() in OURS
    if not path.parts or is_outside or is_ours or "\\" in str(path) or "\0" in str(path) or path.name.startswith("."):
        raise NotAPackage(description_url, f"it names a file outside of the package ({shown(source)!r})")
    name = str(path)
    number = 1
    while name in taken or name.casefold() in OURS or ((plain := _plain_path(name)) in paths and plain != own):
        number += 1
        name = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
    return name


def _plain_path(source: str) -> str:
    """A path in its normal form, in which the same file always has the same path."""
    return unicodedata.normalize("NFC", str(PurePosixPath(source.replace("\\", "/"))))
