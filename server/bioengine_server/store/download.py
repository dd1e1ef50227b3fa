"""Download a file over HTTP(S), from a URL in a description that nobody has checked.

    URL -> allowed? -> address -> allowed? -> bytes, limited in size and time -> SHA-256 compared

An address on this machine or in the private network is refused: otherwise a description could make the server read what only the
server can reach. The check is made on the address to which a socket is about to be connected, after redirects and DNS. The
collection's own host is trusted, because an admin named it, and so is a proxy in the environment. A proxy resolves names itself,
so it has to refuse addresses of the private network itself.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import shutil
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential
from yarl import URL

from bioengine_server.store.addresses import is_public, numeric_host
from bioengine_server.store.errors import DownloadFailed
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the number of bytes that have arrived, and the total number, or None if that is not known."""

_MAX_REDIRECTS = 5
_ATTEMPTS = 3
_IDLE_TIMEOUT = 60.0  # seconds without any data
_CHUNK = 1 << 20  # bytes
_DISK_RESERVE = 200_000_000  # bytes that must stay free on the disk


def nobody(name: str, done: int, total: int | None) -> None:
    """A progress callback that does nothing."""


class NotThere(Exception):
    """The host answered that the file does not exist (404)."""


class _Interrupted(Exception):
    """The transfer failed in a way that may succeed when it is tried again."""


class Downloader:
    """Downloads files; use it as a context manager."""

    def __init__(self, trusted_urls: Iterable[str], timeout: float) -> None:
        """
        Args:
            trusted_urls: the hosts of these URLs may have any address, and may use plain HTTP if these URLs do.
            timeout: seconds that one file may take in total.
        """
        self._trusted = {
            (scheme, url.host, url.explicit_port) for url in map(URL, trusted_urls) for scheme in (url.scheme, "https")
        }
        self._timeout = timeout
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Downloader:
        gate = _Gate()
        for is_trusted in (True, False):
            self._sessions[is_trusted] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector()
                if is_trusted
                else aiohttp.TCPConnector(resolver=gate, socket_factory=gate.open_socket),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=min(_IDLE_TIMEOUT, self._timeout)),
                headers={"User-Agent": "bioengine-server", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,  # otherwise the passwords in ~/.netrc would be sent to hosts that descriptions name
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()

    @property
    def timeout(self) -> float:
        """Seconds that one file may take in total."""
        return self._timeout

    async def fetch(self, url: str, limit: int) -> bytes:
        """The content of a small file, at most `limit` bytes. Raises NotThere, DownloadFailed."""
        parts = bytearray()

        async def read() -> None:
            parts.clear()
            async with self._open(url) as (response, _):
                async for chunk in _bounded(response, url, limit, "the largest size that is accepted"):
                    parts.extend(chunk)

        await self._with_retries(url, read)
        return bytes(parts)

    async def fetch_file(self, url: str, target: Path, sha256: str | None, limit: int, progress: Progress = nobody) -> str:
        """Download a file to `target` and return its SHA-256.

        Args:
            url: the file's URL.
            target: the path to write; overwritten at each attempt.
            sha256: the expected hash, if it is known.
            limit: the largest size in bytes.
            progress: called with the name of `target`.

        Raises NotThere, DownloadFailed, or OSError if `target` cannot be written.
        """
        digest = hashlib.sha256()

        async def read() -> None:
            nonlocal digest
            digest = hashlib.sha256()
            done = 0
            async with self._open(url) as (response, total):
                if total is not None:
                    _check_disk(target, total)
                with target.open("wb") as file:
                    async for chunk in _bounded(response, url, limit, "the limit of BIOENGINE_MAX_PACKAGE_SIZE"):
                        _check_disk(target, len(chunk))
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
                        done += len(chunk)
                        progress(target.name, done, total)

        await self._with_retries(url, read)
        found = digest.hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise DownloadFailed(
                url, f"it is damaged or was replaced: its SHA-256 is {found[:12]}…, but the description says {sha256[:12]}…"
            )
        return found

    async def _with_retries(self, url: str, read: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                async for attempt in AsyncRetrying(
                    stop=stop_after_attempt(_ATTEMPTS),
                    wait=wait_exponential(multiplier=0.5, max=10),
                    retry=retry_if_exception_type(_Interrupted),
                    before_sleep=before_sleep_log(logger, logging.WARNING),
                    reraise=True,
                ):
                    with attempt:
                        await read()  # type: ignore[misc]
        except _Interrupted as error:
            raise DownloadFailed(url, f"{error}, {_ATTEMPTS} times") from error
        except TimeoutError as error:
            raise DownloadFailed(url, f"it timed out after {self._timeout:g} s (BIOENGINE_DOWNLOAD_TIMEOUT)") from error

    @asynccontextmanager
    async def _open(self, url: str) -> AsyncIterator[tuple[aiohttp.ClientResponse, int | None]]:
        """The response for `url`, after redirects, and its size in bytes if it is known."""
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                # Parsed only once, so that the URL that is checked is the one that is used.
                target = URL(url)
                session = self._sessions[self._check(target)]
                async with session.get(target, allow_redirects=False, proxy=_proxy(target)) as response:
                    if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                        url = str(target.join(URL(response.headers["Location"])))
                        continue
                    if response.status in (404, 410):
                        raise NotThere(url)
                    if response.status >= 500 or response.status == 429:
                        raise _Interrupted(f"the host answered {response.status} {shown(response.reason)}")
                    if response.status != 200:
                        raise DownloadFailed(url, f"the host answered {response.status} {shown(response.reason)}")
                    if response.headers.get("Content-Encoding", "identity") != "identity":
                        raise DownloadFailed(url, "the host compressed it, although that was not requested")
                    yield response, response.content_length
                    return
            raise DownloadFailed(url, f"it was redirected more than {_MAX_REDIRECTS} times")
        except _Refused as error:
            raise DownloadFailed(url, str(error)) from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _Refused):
                raise DownloadFailed(url, str(error.os_error)) from error
            raise DownloadFailed(url, f"the host cannot be reached ({error.os_error.strerror or error.os_error})") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise DownloadFailed(url, "the host cannot be reached (it does not answer)") from error
        except (ValueError, UnicodeError) as error:  # raised by yarl, and by the encoding of a name before it is looked up
            raise DownloadFailed(url, "that is not a URL") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
                raise DownloadFailed(url, "that is not a URL") from error
            raise _Interrupted(f"the transfer was cut off ({type(error).__name__})") from error

    def _check(self, url: URL) -> bool:
        """Whether a URL's host is trusted. Raises DownloadFailed for a URL that may not be used."""
        if (url.scheme, url.host, url.explicit_port) in self._trusted and url.scheme in ("http", "https"):
            return True
        if url.scheme != "https" or not url.host:
            raise DownloadFailed(str(url), "only https URLs are allowed")
        # With a proxy, this is the only check of an address; without one, the address is checked again for the socket.
        if (address := numeric_host(url.host)) is not None and not is_public(address):
            raise DownloadFailed(str(url), f"{address} is not an address of the public internet")
        return False


def _proxy(url: URL) -> URL | None:
    """The proxy in the environment for a URL."""
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy is None or not url.host or urllib.request.proxy_bypass(url.host):
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


class _Refused(OSError):
    """The server may not connect to a host's address."""


class _Gate(AbstractResolver):
    """Allows connections only to addresses of the public internet, and to the proxies of the environment.

    `open_socket` makes every connection, and gets the address that is really used. The resolver refuses the same addresses
    earlier, and can name the host: a name that has a private address among others is refused.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()
        self._proxies = {(url.host, url.port) for url in map(URL, urllib.request.getproxies().values()) if url.host}
        self._of_proxies = {(numeric_host(host or ""), port) for host, port in self._proxies}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if (host, port) in self._proxies:
            self._of_proxies |= {(result["host"], result["port"]) for result in found}
            return found
        for result in found:
            if not is_public(result["host"]):
                raise _Refused(f"{shown(host)} has the address {result['host']}, which is not on the public internet")
        return found

    def open_socket(self, address: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        """Make the socket for a connection. Raises _Refused."""
        family, kind, protocol, _, (host, port, *_) = address
        if (host, port) not in self._of_proxies and not is_public(host):
            raise _Refused(f"{shown(host)} is not an address of the public internet")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        await self._resolver.close()


async def _bounded(response: aiohttp.ClientResponse, url: str, limit: int, meaning: str) -> AsyncIterator[bytes]:
    done = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        done += len(chunk)
        if done > limit:
            raise DownloadFailed(url, f"it is larger than {limit / 1e6:,.0f} MB, {meaning}")
        yield chunk


def _check_disk(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < size + _DISK_RESERVE:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free, {(size + _DISK_RESERVE) / 1e6:,.0f} MB are needed")
