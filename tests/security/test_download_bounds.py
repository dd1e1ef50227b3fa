"""Downloads are bounded as a whole, and a collection over HTTPS is asked over HTTPS alone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_server.store.download import Downloader
from bioengine_server.store.errors import DownloadFailed, NotAPackage
from bioengine_server.store.pull import _in_time
from bioengine_server.store.service import StoreService
from yarl import URL

from tests.mirror import Mirror
from tests.security.test_downloads import hostile, mirror  # noqa: F401


async def test_a_description_that_names_too_many_files_is_refused(mirror: Mirror, tmp_path: Path) -> None:  # noqa: F811
    hostile(mirror, "many-files")
    file = mirror.packages / "many-files" / "rdf.yaml"
    rdf = yaml.safe_load(file.read_text())
    rdf["covers"] = [f"cover-{number}.png" for number in range(1001)]
    file.write_text(yaml.safe_dump(rdf, sort_keys=False))
    config = mirror.settings(tmp_path / "home")
    with pytest.raises(NotAPackage, match="it names more than 1000 files"):
        await StoreService(config).fetch("many-files", None)
    assert list(config.store.iterdir()) == []


async def test_a_package_has_a_time_in_all() -> None:
    started = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"had arrived after 0\.1 s, 4 times BIOENGINE_DOWNLOAD_TIMEOUT"):
        async with _in_time("https://example.org/rdf.yaml", 0.1):
            await asyncio.sleep(10)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("trusted", "url", "is_trusted"),
    [
        ("https://example.org/a", "https://example.org/b", True),
        ("https://example.org/a", "http://example.org/b", None),
        ("https://example.org:8443/a", "http://example.org:8443/b", None),
        ("http://127.0.0.1:8080/a", "http://127.0.0.1:8080/b", True),
        ("http://example.org/a", "https://example.org/b", True),
        ("https://example.org/a", "https://other.org/b", False),
    ],
)
def test_plain_http_is_for_collections_that_are_named_so(trusted: str, url: str, is_trusted: Any) -> None:
    downloader = Downloader([trusted], 10)
    if is_trusted is None:
        with pytest.raises(DownloadFailed, match="only https URLs are allowed"):
            downloader._check(URL(url))
    else:
        assert downloader._check(URL(url)) is is_trusted
