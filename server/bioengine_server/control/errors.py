"""What the admin of a running server is told."""

from __future__ import annotations

from pathlib import Path

from bioengine_contract.errors import BioEngineError


class NoServer(BioEngineError):
    """Nobody answers in the control room of a home."""

    code = "no_server"

    def __init__(self, home: Path) -> None:
        super().__init__(
            f"No server is running with the home {home}. Start it with `./bioengine up`, or name the home of the one that runs "
            "with --home; in containers: docker compose exec server bioengine ..."
        )


class NotYourServer(BioEngineError):
    code = "not_your_server"

    def __init__(self, socket: Path) -> None:
        super().__init__(
            f"{socket} belongs to another user. Run this command as the user who runs the server, such as with sudo -u."
        )


class ServerSilent(BioEngineError):
    code = "server_silent"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The server did not answer within {seconds:.0f} s. If this goes on, look at `./bioengine logs`, and restart it."
        )


class NotLoaded(BioEngineError):
    code = "not_loaded"
    status = 404

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model {model_id[:200]!r} is not loaded. `./bioengine status` lists the models that are.")


class ModelAtWork(BioEngineError):
    code = "model_at_work"
    status = 409

    def __init__(self, model_id: str, requests: int) -> None:
        wanted = "a request is" if requests == 1 else f"{requests} requests are"
        super().__init__(
            f"Model {model_id[:200]!r} is at work: {wanted} under way. Wait, or end it with `./bioengine cancel TASK_ID`; "
            "`./bioengine ps` lists them."
        )


class KeptLoaded(BioEngineError):
    code = "kept_loaded"
    status = 409

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"Model {model_id[:200]!r} is always kept loaded, because BIOENGINE_PRELOAD names it. Remove it from that setting, "
            "and restart the server."
        )
