"""What goes wrong with legacy clients."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError

from bioengine_server.untrusted import quoted


class ClientLeft(BioEngineError):
    """A function of a client is called that is not connected any more.

    Args:
        client: `<workspace>/<client id>`.
    """

    code = "client_left"

    def __init__(self, client: str) -> None:
        super().__init__(f"The client {quoted(client)} has left. Look for its service again when it is back.")


class ClientIdTaken(BioEngineError):
    """Another client of the same workspace is connected under this id, and answers."""

    code = "client_id_taken"

    def __init__(self, client_id: str) -> None:
        super().__init__(
            f"The client_id {quoted(client_id)} is taken: another program is connected under it. Choose another client_id, or "
            "leave it out."
        )
