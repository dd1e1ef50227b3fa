"""Fetch a file over HTTP(S), from somewhere that a description names and nobody here has checked.

    URL -> allowed? -> address -> allowed? -> bytes, bounded in size and time -> SHA-256 compared

An address on this machine or in the private network is refused, since a description could else make the server read what only
it can reach. What counts is the address that a socket is about to be connected to, after all that URLs, redirects and DNS make
of a name. The collection's own host is trusted: an admin named it; and so is a proxy of the environment, which then looks up the
names itself: there, keep it from the private network.
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
"""Told of a file's name, the bytes that have come, and those it has in all where that is known."""

_MAX_REDIRECTS = 5
_ATTEMPTS = 3
_IDLE_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20  # bytes
_DISK_RESERVE = 200_000_000  # bytes that a download leaves free


def nobody(name: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


class NotThere(Exception):
    """The host answered that there is no such file (404)."""


class _Interrupted(Exception):
    """The transfer failed in a way that another try may mend."""


class Downloader:
    """Fetches files; open it as a context."""

    def __init__(self, trusted_urls: Iterable[str], timeout: float) -> None:
        """
        Args:
            trusted_urls: their hosts may have any address, and be asked over plain HTTP where these URLs are so.
            timeout: seconds that one file may take in all.
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
                trust_env=False,  # it would send the passwords of ~/.netrc to hosts that descriptions name
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()

    @property
    def timeout(self) -> float:
        """Seconds that one file may take in all."""
        return self._timeout

    async def fetch(self, url: str, limit: int) -> bytes:
        """The content of a small file, at most `limit` bytes. Raises NotThere, DownloadFailed."""
        parts = bytearray()

        async def read() -> None:
            parts.clear()
            async with self._open(url) as (response, _):
                async for chunk in _bounded(response, url, limit, "which is the most that is read of it"):
                    parts.extend(chunk)

        await self._with_retries(url, read)
        return bytes(parts)

    async def fetch_file(self, url: str, target: Path, sha256: str | None, limit: int, progress: Progress = nobody) -> str:
        """Write a file to `target` and return its SHA-256.

        Args:
            url: where it is.
            target: written anew at each attempt.
            sha256: what the hash must be, where it is known.
            limit: bytes, at most.
            progress: told of `target`'s name.

        Raises NotThere, DownloadFailed, OSError where `target` cannot be written.
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
                url, f"it is damaged or was exchanged: its SHA-256 is {found[:12]}…, and the description says {sha256[:12]}…"
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
        """The response for `url`, behind its redirects, and how many bytes it has where it says so."""
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                # Parsed once: what is checked is what is connected to.
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
                        raise DownloadFailed(url, "the host compressed it, which was not asked for")
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
        except (ValueError, UnicodeError) as error:  # of yarl, and of what is made of a name before it is looked up
            raise DownloadFailed(url, "that is not a URL") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
                raise DownloadFailed(url, "that is not a URL") from error
            raise _Interrupted(f"the transfer was cut off ({type(error).__name__})") from error

    def _check(self, url: URL) -> bool:
        """Whether a URL is of a host that is trusted. Raises DownloadFailed for one that is not followed."""
        if (url.scheme, url.host, url.explicit_port) in self._trusted and url.scheme in ("http", "https"):
            return True
        if url.scheme != "https" or not url.host:
            raise DownloadFailed(str(url), "only https URLs are followed")
        # A proxy would be asked for it by its name; without one, the socket decides.
        if (address := numeric_host(url.host)) is not None and not is_public(address):
            raise DownloadFailed(str(url), f"{address} is not an address of the public internet")
        return False


def _proxy(url: URL) -> URL | None:
    """The proxy that the environment names for a URL."""
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy is None or not url.host or urllib.request.proxy_bypass(url.host):
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


class _Refused(OSError):
    """A host's address is not one to go to."""


class _Gate(AbstractResolver):
    """Lets connections go to addresses of the public internet alone, and to the proxies of the environment.

    Every connection is made by `open_socket`, with the very address it is connected to. The resolver refuses the same earlier,
    and names the host: a name with one private address among others is refused altogether.
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
                raise _Refused(f"{shown(host)} has the address {result['host']}, which is not one of the public internet")
        return found

    def open_socket(self, address: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
        """The socket for a connection. Raises _Refused."""
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
