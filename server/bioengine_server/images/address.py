"""Check whether a BioEngine answers at a URL; if not, the error says what does."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit, urlunsplit

import httpx

from bioengine_server.images.errors import BadServerUrl, NoServer, NotABioEngine, UntrustedCertificate, WrongProtocol
from bioengine_server.network.http_get import get
from bioengine_server.untrusted import shown

_TIMEOUT = 10.0  # seconds
_ALIVE = "/health/liveness"
# Answers of servers to plain http on a port for https: of Go (Caddy), nginx, Apache.
_WANTS_TLS = ("http request to an https server", "plain http request was sent to https port", "speaking plain http to an ssl")


def check_address(url: str) -> None:
    """Check a URL. Raises BadServerUrl, WrongEnvironment, WrongProtocol, UntrustedCertificate, NotABioEngine, NoServer."""
    check_url(url)
    try:
        answer = get(url + _ALIVE, _TIMEOUT)
    except httpx.InvalidURL as error:
        raise BadServerUrl(url, str(error).rstrip(".")) from error
    except httpx.HTTPError as error:
        _explain(url, error)
        raise NoServer(url) from error
    if answer.status_code == 200:
        return
    target = answer.headers.get("location", "")
    if answer.is_redirect and urlsplit(target).scheme == "https" and url.startswith("http:"):
        raise WrongProtocol(url, target.removesuffix(_ALIVE))
    if answer.is_redirect:
        raise NotABioEngine(url, f"it redirects to {shown(target, 200)}")
    if answer.status_code == 400 and any(text in answer.text.lower() for text in _WANTS_TLS):
        raise WrongProtocol(url, _with_scheme(url, "https"))
    raise NotABioEngine(url, f"it answers {answer.status_code}{_reason(answer)}")


def check_url(url: str) -> None:
    """Whether it can be the URL of a server. Raises BadServerUrl."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadServerUrl(url, str(error)) from error
    if parts.scheme in ("ws", "wss"):
        likely = urlunsplit(parts._replace(scheme="https" if parts.scheme == "wss" else "http", path=""))
        raise BadServerUrl(url, f"{parts.scheme}:// is not the beginning of one", likely)
    if parts.scheme not in ("http", "https"):
        # In `localhost:9520`, the text before the colon looks like a scheme.
        has_scheme = "://" in url
        reason = f"{shown(parts.scheme)}:// is not the beginning of one" if has_scheme else "http:// or https:// is missing"
        raise BadServerUrl(url, reason, "" if has_scheme or not url.strip("/") else f"http://{url}")
    if not parts.hostname or port == 0:
        raise BadServerUrl(url, "it has no valid host and port")


def _explain(url: str, error: httpx.HTTPError) -> None:
    """Raises the error that explains why there was no answer; httpx wraps the error of OpenSSL."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise UntrustedCertificate(url, cause.verify_message or str(cause)) from error
    if url.startswith("https:") and _speaks_http(url):
        raise WrongProtocol(url, _with_scheme(url, "http")) from error
    if url.startswith("http:") and _speaks_tls(url):
        raise WrongProtocol(url, _with_scheme(url, "https")) from error
    if isinstance(cause, ssl.SSLError):
        raise NotABioEngine(url, f"no encrypted connection could be made ({shown(cause.reason or cause, 100)})") from error
    if isinstance(error, httpx.TimeoutException):
        raise NotABioEngine(url, f"there was no answer within {_TIMEOUT:.0f} s") from error


def _speaks_http(url: str) -> bool:
    try:
        return bool(get(_with_scheme(url, "http") + _ALIVE, _TIMEOUT).status_code)
    except httpx.HTTPError:
        return False


def _speaks_tls(url: str) -> bool:
    """Whether a TLS handshake succeeds. The certificate is not checked, because nothing is sent."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((str(parts.hostname), parts.port or 80), timeout=_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except ssl.SSLError as error:
        # A server that requires another name, or a client certificate, speaks TLS all the same.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _with_scheme(url: str, scheme: str) -> str:
    return urlunsplit(urlsplit(url)._replace(scheme=scheme))


def _reason(answer: httpx.Response) -> str:
    """The message in a response, if it is an error of a BioEngine server."""
    if answer.status_code == 404:
        return ""  # a 404 says nothing about the reason
    try:
        said = answer.json()
        text = said.get("error") or said.get("detail")
    except (ValueError, AttributeError):
        return ""
    return f": {shown(text, 300).rstrip('.')}" if isinstance(text, str) else ""
