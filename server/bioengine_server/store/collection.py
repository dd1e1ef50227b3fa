"""The public collection: from an id to the URL of its description, and the list of what there is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bioengine_server.errors import NotInCollection
from bioengine_server.settings import Settings
from bioengine_server.store.download import Downloader, NotThere
from bioengine_server.store.package import parse_rdf

_RDF_LIMIT = 10_000_000  # bytes
_LIST_LIMIT = 200_000_000  # bytes


@dataclass(frozen=True)
class Description:
    """A model's description in the collection: where it is, as it came, and as plain data."""

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
    """The collection that the settings name."""

    def __init__(self, settings: Settings, downloader: Downloader) -> None:
        self._settings = settings
        self._downloader = downloader

    async def description(self, id: str) -> Description:
        """The description of `id`: a nickname, with a version or without, or a DOI. Raises NotInCollection, DownloadFailed.

        Asked in turn: the collection by its pattern, the id map, and, for a nickname with a version, the collection for the
        nickname alone, whose version may be the one that is wanted.
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
                offers = f"; it offers {nickname!r} in version {offered}"
        if found is None:
            raise NotInCollection(id, asked, offers)
        return found

    async def search(self, words: list[str]) -> list[Listed] | None:
        """The models whose listing has all of `words`; None where the collection has no listing. Raises DownloadFailed."""
        url = self._settings.collection_listing_url
        if not url:
            return None
        try:
            document = json.loads(await self._downloader.fetch(url, _LIST_LIMIT))
        except (NotThere, ValueError):
            return None
        items = document.get("items", document.get("collection", [])) if isinstance(document, dict) else document
        found = []
        for item in items if isinstance(items, list) else []:
            if not isinstance(item, dict) or item.get("type", "model") != "model":
                continue
            text = json.dumps(item, ensure_ascii=False).casefold()
            if all(word.casefold() in text for word in words):
                about = item.get("manifest") if isinstance(item.get("manifest"), dict) else item
                id = str(item.get("alias") or item.get("nickname") or item.get("id") or "").rsplit("/", maxsplit=1)[-1]
                found.append(Listed(id, str(about.get("name") or ""), str(about.get("description") or "")))  # type: ignore[union-attr]
        return found

    async def _read(self, id: str, url: str) -> Description | None:
        try:
            content = await self._downloader.fetch(url, _RDF_LIMIT)
        except NotThere:
            return None
        return Description(id, url, content, parse_rdf(url, content))

    async def _mapped(self, id: str) -> str | None:
        """Where the id map says that the description is."""
        if not self._settings.id_map_url:
            return None
        try:
            document = json.loads(await self._downloader.fetch(self._settings.id_map_url, _LIST_LIMIT))
        except (NotThere, ValueError):
            return None
        entry = document.get(id) if isinstance(document, dict) else None
        source = entry.get("source") if isinstance(entry, dict) else entry
        return source if isinstance(source, str) else None
