"""HTTP GET with the certificates and proxies of the environment; an error names the environment variable that is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping

import httpx
from bioengine_contract.errors import BioEngineError

from bioengine_server.untrusted import shown

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_REMEDY = "Name one that begins with http://, or unset it"


class WrongEnvironment(BioEngineError):
    """An environment variable makes all requests fail."""

    code = "wrong_environment"

    def __init__(self, variable: str, what: str, remedy: str) -> None:
        super().__init__(f"No server can be reached with this environment: {variable} {what}. {remedy}.")


def get(url: str, timeout: float, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """Send a GET request. Raises WrongEnvironment, httpx.InvalidURL, httpx.HTTPError.

    httpx reads the environment before it connects, and a wrong variable may make it raise any exception.
    """
    try:
        parsed = httpx.URL(url)
        _ = parsed.host, parsed.raw_host.decode().encode("idna")  # parse the URL as httpx does, and its host as a connection does
    except UnicodeError as error:  # raised for a name with a part that is empty or too long
        raise httpx.InvalidURL("its host is not a valid name") from error
    try:
        return httpx.get(url, timeout=timeout, headers=headers)
    except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:
        raise _wrong_environment(error) from error


def _wrong_environment(error: Exception) -> WrongEnvironment:
    said = shown(" ".join(str(error).split()).rstrip("."), 200)
    if isinstance(error, OSError):
        for name in _CERTIFICATES:
            if value := os.environ.get(name):
                reason = error.strerror or said
                return WrongEnvironment(
                    name,
                    f"names {shown(value, 300)}, from which no certificates can be read ({shown(reason, 200)})",
                    "Name a file of certificates in PEM form, or unset it",
                )
    for name in _PROXIES:
        # Not the value as it is: it may hold a password.
        value = os.environ.get(name, "")
        kind = value.partition("://")[0] if "://" in value else "http"
        if kind.lower() not in ("http", "https"):
            return WrongEnvironment(name, f"names a proxy of the kind {shown(kind, 20)}://, which is not supported", _REMEDY)
        if not _is_url(value):
            return WrongEnvironment(name, "is not the URL of a proxy", _REMEDY)
    return WrongEnvironment(
        "a variable for proxies or certificates", f"cannot be used ({said})", f"See {', '.join((*_CERTIFICATES, *_PROXIES))}"
    )


def _is_url(proxy: str) -> bool:
    try:
        return bool(httpx.URL(proxy if "://" in proxy else f"http://{proxy}"))
    except httpx.InvalidURL:
        return False
