"""Errors of legacy clients."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError

from bioengine_server.untrusted import quoted


class ClientLeft(BioEngineError):
    """A function was called of a client that is no longer connected.

    Args:
        client: `<workspace>/<client id>`.
    """

    code = "client_left"

    def __init__(self, client: str) -> None:
        super().__init__(f"The client {quoted(client)} has disconnected. Look up its service again when it is back.")


class ClientIdTaken(BioEngineError):
    """Another client, which answers, is connected to the same workspace with this id."""

    code = "client_id_taken"

    def __init__(self, client_id: str) -> None:
        super().__init__(
            f"The client_id {quoted(client_id)} is taken: another program is connected with it. Choose another client_id, or "
            "leave it out."
        )
