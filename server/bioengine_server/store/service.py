"""The store service: downloads models that are requested but not stored.

    id -> may this caller cause a download? -> the caller's turn -> one download for all who wait for it -> the store

Downloads and descriptions each have a lane with limits, in total and for each caller: a client that requests a thousand models
can neither fill the disk at once nor delay other clients.

Only the server downloads: Triton needs neither the internet nor a secret for it.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bioengine_contract.manifest import Manifest
from bioengine_contract.shown_files import with_addresses

from bioengine_server.access.caller import Caller
from bioengine_server.access.lanes import Lane, LaneLimits, SharedWork
from bioengine_server.settings import Settings
from bioengine_server.store import conversion, layout, reader
from bioengine_server.store.adapt import adapt
from bioengine_server.store.collection import Collection, Description, Listed
from bioengine_server.store.download import Downloader, Progress, nobody
from bioengine_server.store.errors import DownloadFailed, DownloadNotAllowed, Offline, StoreError, StoreNotWritable
from bioengine_server.store.halo import measuring_store
from bioengine_server.store.model_store import StoredModel
from bioengine_server.store.named_files import beside
from bioengine_server.store.names import is_doi
from bioengine_server.store.package import RDF
from bioengine_server.store.pull import pull
from bioengine_server.store.usage import UsageLog
from bioengine_server.store.yaml_text import dumped
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

_MAX_DESCRIPTIONS = 64

# A download may take hours and tens of gigabytes: only few at once, and one place is reserved for callers with a token.
_DOWNLOADS = LaneLimits(places=4, queue=64, caller_places=2, caller_queue=16, anonymous_places=3, patience=600)
_DESCRIBING = LaneLimits(places=4, queue=128, caller_places=2, caller_queue=32, anonymous_places=3, patience=60)
_DESCRIPTION_TIMEOUT = 60.0  # seconds that the collection may take to return one description
_NOT_ALLOWED = {
    "token": "only clients with a token may have models downloaded",
    "admin": "only its admin downloads models",
    "never": "no models are downloaded",
}


@dataclass(frozen=True, eq=False)
class _Listener:
    """Somebody who waits for a download."""

    progress: Progress
    on_convert: Callable[[], None]


class StoreService:
    """Downloads models from the collection into the store of one home."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = measuring_store(settings)
        self._usage = UsageLog(settings.store)
        self._writing: asyncio.Future[None] | None = None
        self._downloads, self._describing = SharedWork(Lane(_DOWNLOADS)), SharedWork(Lane(_DESCRIBING))
        self._descriptions: dict[str, Manifest] = {}
        self._listeners: dict[str, list[_Listener]] = {}

    async def fetch(
        self, id: str, caller: Caller | None, progress: Progress = nobody, on_convert: Callable[[], None] = lambda: None
    ) -> None:
        """Download the model `id` into the store.

        Args:
            id: a nickname, with or without a version, or a DOI; well-formed.
            caller: who asks; None for the admin, at the command line.
            progress: told of each file.
            on_convert: called when the download is complete, and its weights are being converted.

        Raises StoreError, Busy.
        """
        self._check(id, caller)
        listeners, listener = self._listeners.setdefault(id, []), _Listener(progress, on_convert)
        listeners.append(listener)
        try:
            await self._downloads.once(id, caller, lambda: self._fetch(id, listeners))
        finally:
            listeners.remove(listener)
            if not listeners and not self._downloads.is_under_way(id):
                self._listeners.pop(id, None)

    async def describe(self, id: str, caller: Caller | None) -> Manifest:
        """Describe a model that is not stored from its description alone; no weights are downloaded.

        Raises StoreError, Busy.
        """
        self._check(id, caller)
        if id not in self._descriptions:
            manifest = await self._describing.once(id, caller, lambda: self._describe(id))
            if len(self._descriptions) >= _MAX_DESCRIPTIONS:
                self._descriptions.clear()
            self._descriptions[id] = manifest
        return self._descriptions[id]

    async def search(self, words: list[str]) -> list[Listed] | None:
        """The models in the collection's listing that contain all `words`; None if there is no listing. Raises StoreError."""
        async with self._downloader() as downloader:
            return await Collection(self._settings, downloader).search(words)

    def state(self) -> object:
        """A value that changes when a package is added, removed or renamed; None if there is no store."""
        return self._store.state()

    def used(self, place: str) -> None:
        """Note that the package `<id>/<version>` was used. It is written in the background."""
        if self._usage.used(place) and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._usage.write)

    def close(self) -> None:
        self._usage.write()

    def _check(self, id: str, caller: Caller | None) -> None:
        if self._settings.offline:
            raise Offline(id)
        policy = self._settings.download
        if policy == "anyone" or (caller is None and policy != "never"):
            return
        if caller is not None and policy == "token" and caller.token:
            return
        raise DownloadNotAllowed(id, _NOT_ALLOWED[policy])

    async def _fetch(self, id: str, listeners: list[_Listener]) -> None:
        with self._writing_errors():
            self._settings.store.mkdir(parents=True, exist_ok=True)
        async with self._downloader() as downloader:
            if self._store.contains(id):
                return
            # Before the lock file is made, so that names that the collection does not have leave no files behind.
            description = await self._found(id, downloader)
            async with self._alone(id):
                if self._store.contains(id):
                    return
                logger.info("Downloading %s from %s", shown(id), shown(description.url, 200))
                collection = Collection(self._settings, downloader)
                progress = partial(_tell_all, listeners)
                model = await pull(self._store, downloader, collection, description, self._settings.max_package_size, progress)
                await self._convert(model, listeners)

    async def _convert(self, model: StoredModel, listeners: list[_Listener]) -> None:
        """Convert a downloaded package where that is needed and possible. It stays stored if it cannot be converted."""
        if not conversion.is_wanted(model.manifest):
            return
        if conversion.has_environment(self._settings, model.manifest):
            for listener in list(listeners):
                listener.on_convert()
        try:
            await asyncio.to_thread(conversion.convert, model, self._store, self._settings)
        except StoreError as error:
            logger.warning("%s", shown(error, 1000))

    async def _describe(self, id: str) -> Manifest:
        async with self._downloader() as downloader:
            found = await self._found(id, downloader)
        return await reader.apart(_manifest_of, found)

    async def _found(self, id: str, downloader: Downloader) -> Description:
        """The collection's description of a model. Raises NotInCollection, DownloadFailed."""
        try:
            async with asyncio.timeout(_DESCRIPTION_TIMEOUT):
                return await Collection(self._settings, downloader).description(id)
        except TimeoutError:
            url = self._settings.collection_url
            raise DownloadFailed(url, f"the description of {id!r} timed out after {_DESCRIPTION_TIMEOUT:.0f} s") from None

    def _downloader(self) -> Downloader:
        settings = self._settings
        trusted = [settings.collection_url, settings.collection_listing_url, settings.id_map_url]
        return Downloader([url for url in trusted if url], settings.download_timeout)

    @asynccontextmanager
    async def _alone(self, id: str) -> AsyncIterator[None]:
        """Only one of several processes with the same store downloads `id`; the others wait for it."""
        with self._writing_errors():
            name = f"download-{hashlib.sha256(id.encode()).hexdigest()[:24]}"
            stream = (layout.locks(self._settings.store) / name).open("w")
        with stream:
            with self._writing_errors():  # a file system may have no locks
                while not layout.try_lock(stream):
                    await asyncio.sleep(0.2)
            yield

    @contextmanager
    def _writing_errors(self) -> Iterator[None]:
        """Turn an OSError about the store into StoreNotWritable."""
        try:
            yield
        except OSError as error:
            raise StoreNotWritable(self._settings.store, error.strerror or str(error)) from error


def _tell_all(listeners: list[_Listener], name: str, done: int, total: int | None) -> None:
    """Tell everybody who waits for a download."""
    for listener in list(listeners):
        listener.progress(name, done, total)


def _manifest_of(found: Description) -> Manifest:
    with tempfile.TemporaryDirectory() as name:
        folder, raw = Path(name), copy.deepcopy(found.raw)
        (folder / RDF).write_bytes(dumped(raw) if adapt(raw) else found.content)
        id = found.id.replace("/", "_") if is_doi(found.id) else found.id.partition("/")[0]
        manifest = reader.read_package(found.url, folder, id, {})
    return manifest.model_copy(update={"rdf": with_addresses(manifest.rdf, partial(beside, found.url))})
