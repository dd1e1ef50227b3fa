"""The public collection: from an id to the URL of its description, and the list of its models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bioengine_server.settings import Settings
from bioengine_server.store.description import MAX_SIZE
from bioengine_server.store.download import Downloader, NotThere
from bioengine_server.store.errors import DownloadFailed, NotAPackage, NotInCollection
from bioengine_server.store.reader import apart, look_up, read_raw, search_listing
from bioengine_server.untrusted import shown

_LIST_LIMIT = 40_000_000  # bytes


@dataclass(frozen=True)
class Description:
    """A model's description in the collection: its URL, its text, and its plain data."""

    id: str
    url: str
    content: bytes
    raw: dict[str, Any]


@dataclass(frozen=True)
class Listed:
    """A model in the collection's listing."""

    id: str
    name: str
    description: str


class Collection:
    """The collection that is configured in the settings."""

    def __init__(self, settings: Settings, downloader: Downloader) -> None:
        self._settings = settings
        self._downloader = downloader
        self._id_map: bytes | None = None

    async def description(self, id: str) -> Description:
        """The description of `id`: a nickname, with a version or without, or a DOI. Raises NotInCollection, DownloadFailed.

        These are tried in turn: the collection's URL pattern, the id map, and, for a nickname with a version, the collection for
        the nickname alone, which may have the requested version.
        """
        asked = [self._settings.collection_url.replace("{id}", quote(id))]
        found = await self._read(id, asked[0])
        if found is None and (url := await self._mapped(id)):
            asked.append(url)
            found = await self._read(id, url)
        offers = ""
        if found is None and (versioned := re.fullmatch(r"([^/]+)/v?([^/]+)", id)) and not id.startswith("10."):
            nickname, version = versioned.groups()
            unversioned = await self._read(id, self._settings.collection_url.replace("{id}", quote(nickname)))
            if unversioned is not None:
                offered = str(unversioned.raw.get("version"))
                if offered == version:
                    found = unversioned
                offers = f"; it offers {nickname!r} in version {shown(offered)}"
        if found is None:
            raise NotInCollection(id, asked, offers)
        return found

    async def search(self, words: list[str]) -> list[Listed] | None:
        """The models whose entry in the listing contains all `words`; None if there is no listing. Raises DownloadFailed."""
        url = self._settings.collection_listing_url
        if not url:
            return None
        try:
            content = await self._downloader.fetch(url, _LIST_LIMIT)
            return [Listed(**item) for item in await apart(search_listing, url, content, words)]
        except (NotThere, NotAPackage):
            return None

    async def confirms(self, name: str, description: Description, is_pinned: bool) -> bool:
        """Whether the collection confirms that `name`, a name that `description` claims for itself, belongs to its model.

        It does so if it has the same description under that name: at the same URL, or with the same content at another one.

        Args:
            name: a nickname or DOI.
            description: a description that was found under another name.
            is_pinned: whether the description contains the hashes of its files, so that the same text means the same model.
        """
        own = self._settings.collection_url.replace("{id}", quote(name))
        try:
            mapped = await self._mapped(name)
            if description.url in (own, mapped):
                return True
            if not is_pinned:
                return False
            for url in filter(None, (own, mapped)):
                try:
                    return await self._downloader.fetch(url, MAX_SIZE) == description.content
                except NotThere:
                    continue
        except DownloadFailed:
            pass  # then the name is not confirmed, and the model is stored without it
        return False

    async def _read(self, id: str, url: str) -> Description | None:
        try:
            content = await self._downloader.fetch(url, MAX_SIZE)
        except NotThere:
            return None
        return Description(id, url, content, await apart(read_raw, url, content))

    async def _mapped(self, id: str) -> str | None:
        """The URL of the description according to the id map, which is downloaded only once."""
        url = self._settings.id_map_url
        if not url:
            return None
        try:
            if self._id_map is None:
                self._id_map = await self._downloader.fetch(url, _LIST_LIMIT)
            return (await apart(look_up, url, self._id_map, [id])).get(id)
        except (NotThere, NotAPackage):
            return None
