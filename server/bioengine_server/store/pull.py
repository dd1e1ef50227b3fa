"""From a description in the collection to a package in the store.

    description -> the files it names -> downloaded and verified -> the store

Only what is needed to run, test and show a model is fetched: of the weights those that the runner can run. Code of a package
is fetched as the data that it is; the runner runs it only where the admin trusts the package.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import yaml

from bioengine_server.errors import DownloadFailed, NotAPackage
from bioengine_server.store import layout
from bioengine_server.store.collection import Collection, Description
from bioengine_server.store.download import Downloader, NotThere, Progress, nobody
from bioengine_server.store.manifest import RUNNABLE_WEIGHTS
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.names import NameTaken, ReservedName, claimed_names, is_doi, proposed_id, shipped_package
from bioengine_server.store.package import RDF
from bioengine_server.store.trust import CODE_WEIGHTS
from bioengine_server.untrusted import shown

_MOST_FILES = 1000  # that a description names
_FILES_OF_FULL_LENGTH = 4  # what a package may take in all, in times of what one file may
_MAX_CLAIMS = 4  # names that a description claims and the collection is asked about
_PROCESSING = {"inputs": "preprocessing", "outputs": "postprocessing"}


@dataclass
class _File:
    """A file that a description names. `holder[key]` is where it does, with `suffix` behind it."""

    holder: Any
    key: Any
    sha256: str | None
    required: bool
    suffix: str = ""
    computes: bool = False
    """Whether it is a part of what the model computes."""

    @property
    def source(self) -> str:
        return str(self.holder[self.key]).removesuffix(self.suffix)


async def pull(
    store: ModelStore,
    downloader: Downloader,
    collection: Collection,
    description: Description,
    max_size: int,
    progress: Progress = nobody,
) -> StoredModel:
    """Download the package of `description` into the store, under the name that was asked for and what the collection confirms.

    Args:
        store: to put it in.
        downloader: to fetch with.
        collection: that the description is from.
        description: what is asked for.
        max_size: bytes of the package, at most.
        progress: told of each file.

    Raises DownloadFailed, NotAPackage, InvalidPackage, BadId, NameTaken, ReservedName, StoreNotWritable.
    """
    ids, further_names = await _names(collection, description)
    raw = copy.deepcopy(description.raw)
    files = list(itertools.islice(_files(raw), _MOST_FILES + 1))
    if len(files) > _MOST_FILES:
        raise NotAPackage(description.url, f"it names more than {_MOST_FILES} files")
    with store.incoming(description.url) as folder:
        async with _in_time(description.url, downloader.timeout * _FILES_OF_FULL_LENGTH):
            await _fetch(files, folder, description, downloader, max_size, progress)
        as_it_came = raw == description.raw
        (folder / RDF).write_bytes(description.content if as_it_came else await asyncio.to_thread(_dumped, raw))
        try:
            return await asyncio.to_thread(store.adopt, folder, description.url, ids[0], further_names)
        except (NameTaken, ReservedName):
            if len(ids) == 1:
                raise
            return await asyncio.to_thread(store.adopt, folder, description.url, ids[1], further_names)


async def _fetch(
    files: list[_File], folder: Path, description: Description, downloader: Downloader, max_size: int, progress: Progress
) -> None:
    """Download `files` into `folder`, and have the description name them as they are there."""
    names: dict[str, str] = {}
    left = max_size
    for file in files:
        source = file.source
        if source not in names:
            name = _local_name(description.url, source, taken=set(names.values()))
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            url = source if _is_url(source) else _beside(description.url, source)
            try:
                await downloader.fetch_file(url, target, file.sha256, left, progress)
            except NotThere as error:
                if file.required:
                    raise DownloadFailed(url, "there is no such file (404), and the description names it") from error
                continue
            except DownloadFailed:
                if file.required:
                    raise
                continue
            left -= target.stat().st_size
            names[source] = name
        file.holder[file.key] = names[source] + file.suffix


@asynccontextmanager
async def _in_time(url: str, seconds: float) -> AsyncIterator[None]:
    """Raises DownloadFailed where the body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        limit = f"{_FILES_OF_FULL_LENGTH} times BIOENGINE_DOWNLOAD_TIMEOUT"
        raise DownloadFailed(url, f"the files that it names had not all come after {seconds:g} s, {limit}") from error


def _dumped(raw: dict[str, Any]) -> bytes:
    """A description as YAML; by libyaml where it is there, which takes a tenth of the time."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(raw, Dumper=dumper, sort_keys=False, allow_unicode=True)).encode()


async def _names(collection: Collection, description: Description) -> tuple[list[str], frozenset[str]]:
    """The id to store a model under, with the one to take where that means another package, and its further names.

    What the description says of itself counts where the collection confirms it.
    """
    asked, raw = description.id, description.raw
    is_pinned = all(file.sha256 is not None for file in _files(raw) if file.computes)
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


def _files(raw: dict[str, Any]) -> Iterator[_File]:
    """What to fetch of the files that a description names: weights, test and sample tensors, documentation, covers."""
    yield from _weights_files(raw)
    for kind in ("inputs", "outputs"):
        for tensor in _list(raw.get(kind)):
            for key in ("test_tensor", "sample_tensor"):
                held = tensor.get(key) if isinstance(tensor, dict) else None
                if isinstance(held, dict) and isinstance(held.get("source"), str):
                    yield _File(held, "source", held.get("sha256"), required=key == "test_tensor")
            for step in _list(tensor.get(_PROCESSING[kind])) if isinstance(tensor, dict) else []:
                if isinstance(step, dict) and step.get("id") == "custom" and isinstance(step.get("source"), str):
                    yield _File(step, "source", step.get("sha256"), required=True, computes=True)
        for key in (f"test_{kind}", f"sample_{kind}"):
            yield from _entries(raw, key, required=key.startswith("test"))
    yield from _entries(raw, "covers", required=False)
    documentation = raw.get("documentation")
    if isinstance(documentation, dict) and isinstance(documentation.get("source"), str):
        yield _File(documentation, "source", documentation.get("sha256"), required=False)
    elif isinstance(documentation, str):
        yield _File(raw, "documentation", None, required=False)


def _weights_files(raw: dict[str, Any]) -> Iterator[_File]:
    """The weights that the runner can run; those that need code of the package, with it, only where there are no others."""
    weights = raw.get("weights")
    entries = {name: entry for name, entry in weights.items() if isinstance(entry, dict)} if isinstance(weights, dict) else {}
    runnable = [name for name in RUNNABLE_WEIGHTS if isinstance(entries.get(name, {}).get("source"), str)]
    for name in [name for name in runnable if name not in CODE_WEIGHTS] or runnable:
        entry = entries[name]
        if not isinstance(entry.get("sha256"), str):
            raise NotAPackage(f"The description of {shown(raw.get('name'))!r}", f"it gives no sha256 for its {name} weights")
        yield _File(entry, "source", entry["sha256"], required=True, computes=True)
        extra, architecture = entry.get("external_data"), entry.get("architecture")
        if isinstance(extra, dict) and isinstance(extra.get("source"), str):
            yield _File(extra, "source", extra.get("sha256"), required=True, computes=True)
        if isinstance(architecture, dict) and isinstance(architecture.get("source"), str):
            yield _File(architecture, "source", architecture.get("sha256"), required=True, computes=True)
        elif isinstance(architecture, str) and ":" in architecture:  # format 0.4: `network.py:Network`
            name_in_file = architecture.rpartition(":")[2]
            yield _File(entry, "architecture", entry.get("architecture_sha256"), True, f":{name_in_file}", computes=True)


def _entries(raw: dict[str, Any], key: str, required: bool) -> Iterator[_File]:
    """The files of a list of names, or of `{"source", "sha256"}`."""
    items = _list(raw.get(key))
    for index, item in enumerate(items):
        if isinstance(item, str):
            yield _File(items, index, None, required)
        elif isinstance(item, dict) and isinstance(item.get("source"), str):
            yield _File(item, "source", item.get("sha256"), required)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_url(source: str) -> bool:
    return "://" in source


def _beside(description_url: str, source: str) -> str:
    """The URL of a file beside a description; a query of the description's URL, such as its version, holds for it too."""
    query = urlsplit(description_url).query
    return urljoin(description_url, quote(source)) + (f"?{query}" if query else "")


def _local_name(description_url: str, source: str, taken: set[str]) -> str:
    """Where to put a file within the package. Raises NotAPackage for a name that would lead out of it."""
    path = PurePosixPath(PurePosixPath(urlsplit(source).path).name) if _is_url(source) else PurePosixPath(source)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or "\\" in str(path) or "\0" in str(path) or path.name.startswith("."):
        raise NotAPackage(description_url, f"it names a file that is not one of the package ({shown(source)!r})")
    name = str(path)
    number = 1
    while name in taken or name == RDF:
        number += 1
        name = str(Path(path).with_name(f"{path.stem}-{number}{path.suffix}"))
    return name
