"""Errors for requests that are refused because of where they come from, or which name they are sent to."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError

from bioengine_server.errors import StackError
from bioengine_server.untrusted import quoted


class Forbidden(BioEngineError):
    code = "forbidden"
    status = 403

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} is refused: {reason}")


class HostNotAllowed(BioEngineError):
    """The Host header is not a name of this server; a web page may have made its own name resolve to it (DNS rebinding)."""

    code = "host_not_allowed"
    status = 421

    def __init__(self, host: str | None) -> None:
        name = "The request has no valid Host header" if host is None else f"This server is not known as {quoted(host)}"
        super().__init__(
            f"{name}. Use the address that its admin gave you, or ask the admin to add the name to BIOENGINE_ALLOW_HOSTS."
        )


class OriginNotAllowed(Forbidden):
    """Web pages of this origin may not use the server."""

    code = "origin_not_allowed"

    def __init__(self, origin: str) -> None:
        BioEngineError.__init__(
            self,
            f"Web pages of the origin {quoted(origin)} may not use this server. Its admin can allow them with the setting "
            "BIOENGINE_ALLOW_ORIGINS.",
        )


class CrossSiteRequest(Forbidden):
    """A browser sent the request for a page of another site without naming its origin, as it does for an image."""

    code = "cross_site_request"

    def __init__(self) -> None:
        BioEngineError.__init__(
            self,
            "A web page of another site sent this request without an Origin header. Pages that BIOENGINE_ALLOW_ORIGINS allows "
            "must use fetch() with the mode 'cors'.",
        )


class PortInUse(StackError):
    code = "port_in_use"

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"Cannot listen on {host}:{port} ({reason}). "
            "Another program uses this port, perhaps another BioEngine. Stop it, or choose another port with --port NUMBER."
        )
