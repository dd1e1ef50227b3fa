"""Ports, and the certificate of https."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from bioengine_server.doctor.finding import Finding
from bioengine_server.doctor.setup import Setup
from bioengine_server.home_in_use import server_with_another_home
from bioengine_server.http.server import listen
from bioengine_server.network.errors import PortInUse
from bioengine_server.network.http_get import WrongEnvironment, get
from bioengine_server.network.origins import parse_origins
from bioengine_server.network.peers import is_loopback

_PATIENCE = 5.0  # seconds
_EXPIRES_SOON = datetime.timedelta(days=21)
_HTTPS_PORT = 443
_LAST_PORT = 65535


def port(setup: Setup) -> Iterator[Finding]:
    """Whether the port for clients is free, or used by a BioEngine."""
    settings = setup.settings
    subject = f"port {settings.port}"
    try:
        listen(settings.bind_address, settings.port).close()
    except PortInUse:
        yield _who_has(setup, subject)
    else:
        yield Finding(subject, "ok", "free")


def names(setup: Setup) -> Iterator[Finding]:
    """The names of the server; requests for other names are refused."""
    hosts = setup.settings.known_hosts()
    listed = ", ".join(dict.fromkeys(["localhost", *hosts.names]))
    if hosts.takes_all:
        advice = (
            "Web pages can use this server by DNS rebinding. List the names that clients use in BIOENGINE_ALLOW_HOSTS instead."
        )
        yield Finding("names", "note", "every name is accepted (BIOENGINE_ALLOW_HOSTS=*)", advice)
    elif is_loopback(setup.settings.bind_address):
        yield Finding("names", "ok", listed)
    else:
        advice = "Clients that use another name are refused, with 421: add it to BIOENGINE_ALLOW_HOSTS."
        yield Finding("names", "note", f"{listed}, and addresses of this machine", advice)


def told_address(setup: Setup) -> Iterator[Finding]:
    """The URL that clients get: the URLs of models' samples and covers begin with it."""
    settings = setup.settings
    if settings.tells_others_loopback:
        advice = "Set BIOENGINE_PUBLIC_URL to the address that they use, so that web pages can show models' samples and covers."
        found = f"clients on other machines get {settings.advertised_url}, which is not this machine for them"
        yield Finding("address", "note", found, advice)
    else:
        yield Finding("address", "ok", f"clients get {settings.advertised_url}")


def pages(setup: Setup) -> Iterator[Finding]:
    """Which web pages may use the server."""
    entries = parse_origins(setup.settings.allow_origins)
    if "*" in entries:
        advice = "List the origins that should be allowed in BIOENGINE_ALLOW_ORIGINS; .env.example has the default."
        yield Finding("web pages", "note", "every page in a browser on this network may use the server", advice)
    else:
        yield Finding("web pages", "ok", f"may use it: its own, {', '.join(entries)}" if entries else "only its own may use it")


def certificate(setup: Setup) -> Iterator[Finding]:
    """The lab's own certificate, if the settings name one; otherwise the one that https uses, if it is set up."""
    if file := setup.compose.get("BIOENGINE_TLS_CERTIFICATE"):
        yield _of_file(Path(file), setup.compose.get("BIOENGINE_TLS_KEY", ""))
    elif name := setup.compose.get("BIOENGINE_HTTPS_NAME"):
        number = setup.compose.get("BIOENGINE_HTTPS_PORT", str(_HTTPS_PORT))
        if number.isdecimal() and 1 <= int(number) <= _LAST_PORT:
            yield _of_server(name, int(number))
        else:
            found = f"BIOENGINE_HTTPS_PORT is {number[:40]!r}, expected a number from 1 to {_LAST_PORT}"
            yield Finding("certificate", "problem", found, "Correct it, for example in .env.")
    else:
        yield Finding(
            "certificate",
            "note",
            "https is not set up",
            "Only needed for clients on other machines: `docker compose --profile lan up`.",
        )


def _who_has(setup: Setup, subject: str) -> Finding:
    url = setup.settings.url
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, ValueError):
        try:
            answer = get(f"{url}/health/readiness", _PATIENCE)
        except WrongEnvironment as error:
            return Finding(subject, "problem", f"it is not known whether a BioEngine uses it: {error}", "Correct that variable.")
        health = answer.json()
        if answer.status_code == 200 and health.get("status") == "OK":
            if server_with_another_home(setup.settings):
                advice = f"No server uses {setup.settings.home}, which is checked here: give the server's home with --home."
                return Finding(subject, "note", "a BioEngine answers there and is ready, but has another home", advice)
            return Finding(subject, "ok", "a BioEngine answers there, and is ready")
        if "reason" in health:
            advice = "Its output, or `docker compose logs`, says more."
            return Finding(subject, "problem", f"a BioEngine answers there, but is not ready: {health['reason']}", advice)
    advice = "Stop that program, or choose another port with BIOENGINE_PORT or --port."
    return Finding(subject, "problem", f"{_listener(setup.settings.port)} uses it, which is not a BioEngine", advice)


def _listener(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"


def _of_file(file: Path, key_file: str) -> Finding:
    renew = "Get a new certificate, and set it and its key with BIOENGINE_TLS_CERTIFICATE and BIOENGINE_TLS_KEY."
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not in PEM format"
        return Finding("certificate", "problem", f"{file} cannot be read: {reason}", renew)
    try:
        key = load_pem_private_key(Path(key_file).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a key in PEM format without password"
        return Finding("certificate", "problem", f"its key {key_file or '(none)'} cannot be read: {reason}", renew)
    of_key, of_certificate = (
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for public in (key.public_key(), found.public_key())
    )
    if of_key != of_certificate:
        return Finding(
            "certificate", "problem", f"{key_file} is not the key of {file}", "Set a certificate and a key that belong together."
        )
    return _dates(found, str(file), renew)


def _of_server(name: str, port: int) -> Finding:
    try:
        found = x509.load_pem_x509_certificate(ssl.get_server_certificate((name, port), timeout=_PATIENCE).encode())
    except (OSError, ValueError) as error:
        advice = "Start it with `docker compose --profile lan up -d`; `docker compose logs proxy` says what is wrong."
        return Finding("certificate", "note", f"https://{name}:{port} does not answer ({type(error).__name__})", advice)
    return _dates(found, f"that of https://{name}:{port}", "`docker compose restart proxy` makes Caddy create a new one.")


def _dates(found: x509.Certificate, what: str, renew: str) -> Finding:
    now = datetime.datetime.now(datetime.UTC)
    end = found.not_valid_after_utc
    if now > end:
        return Finding("certificate", "problem", f"{what} expired on {end:%Y-%m-%d}", renew)
    if now < found.not_valid_before_utc:
        advice = "Check the clock, or get another certificate."
        return Finding("certificate", "problem", f"{what} is valid from {found.not_valid_before_utc:%Y-%m-%d} only", advice)
    # The proxy's own certificates are valid for a few hours, and it renews them itself.
    lasts = found.not_valid_after_utc - found.not_valid_before_utc
    if end - now < _EXPIRES_SOON < lasts:
        return Finding("certificate", "note", f"{what} expires on {end:%Y-%m-%d}", renew)
    return Finding("certificate", "ok", f"{what}, valid until {end:%Y-%m-%d}")
