"""Which web pages may use the server, by their origin (RFC 6454): the scheme, host and port of the page's URL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from bioengine_server.network.errors import OriginNotAllowed

LOOPBACK = "loopback"
PUBLISHED = (
    "https://bioimage.io",
    "https://*.bioimage.io",
    "https://bioimage-io.github.io",
    "https://imjoy.io",
    "https://*.imjoy.io",
    "https://kaibu.org",
    "https://piximi.app",
    "https://www.piximi.app",
)
"""Where the web clients of the public server are published."""

DEFAULT_ORIGINS = ",".join((LOOPBACK, *PUBLISHED))

_ENTRY = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>(\*\.)?[a-z0-9_][a-z0-9._-]*|\[[0-9a-f:]+\])(:(?P<port>[0-9]{1,5}|\*))?"
)
_LOOPBACK = r"https?://(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?"
_LABELS = r"([a-z0-9_-]+\.)+"


class Origins:
    """The origins whose web pages may use one server, besides its own."""

    def __init__(self, allowed: str, own_url: str) -> None:
        """
        Args:
            allowed: the setting BIOENGINE_ALLOW_ORIGINS.
            own_url: the server's public URL.
        """
        entries = parse_origins(allowed)
        own = urlsplit(own_url)
        self.takes_all = "*" in entries
        patterns = [_pattern(entry) for entry in entries if entry != "*"]
        self._allowed = re.compile("|".join([*patterns, re.escape(f"{own.scheme}://{own.netloc}".lower())]))

    def match(self, origin: str) -> bool:
        """Whether web pages of this origin may use the server."""
        return self.takes_all or bool(self._allowed.fullmatch(origin))

    def check(self, values: Sequence[bytes], host: str) -> None:
        """Raises OriginNotAllowed if a request comes from a web page that may not use the server.

        Args:
            values: the values of all its Origin headers; programs send none.
            host: the name of this server that it was sent to.
        """
        if not values or self.takes_all:
            return
        origin = b", ".join(values).decode("latin-1")
        # A page of this server, under any of its names.
        is_own = origin in (f"http://{host}", f"https://{host}")
        if len(values) != 1 or not (is_own or self.match(origin)):
            raise OriginNotAllowed(origin)


def parse_origins(value: str) -> list[str]:
    """The entries of BIOENGINE_ALLOW_ORIGINS. Raises ValueError."""
    entries = [entry.strip().lower().removesuffix("/") for entry in value.split(",") if entry.strip()]
    for entry in entries:
        if entry not in ("*", LOOPBACK) and not _ENTRY.fullmatch(entry):
            raise ValueError(
                f"{entry[:80]!r} is not an origin. Expected a scheme and a host, such as https://bioimage.io, "
                f"https://*.imjoy.io or http://lab.example:*, the word {LOOPBACK}, or * for all"
            )
    return entries


def _pattern(entry: str) -> str:
    """A regular expression for the origins that an entry allows."""
    found = _ENTRY.fullmatch(entry)
    if found is None:
        return _LOOPBACK
    host = re.escape(found["host"].removeprefix("*."))
    below = _LABELS if found["host"].startswith("*.") else ""
    port = "(:[0-9]{1,5})?" if found["port"] == "*" else f":{found['port']}" if found["port"] else ""
    return f"{re.escape(found['scheme'])}://{below}{host}{port}"
