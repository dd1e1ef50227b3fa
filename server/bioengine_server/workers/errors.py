"""What can be wrong with a worker that dials in."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError
from bioengine_contract.version import VERSION

from bioengine_server.triton.errors import TritonUnavailable


class WorkerLost(TritonUnavailable):
    """A worker that has gone with what it was asked. `had_begun`: whether it may have worked on it."""

    code = "worker_lost"

    def __init__(self, name: str, had_begun: bool = True) -> None:
        BioEngineError.__init__(
            self, f"The worker '{name}' went away while it had this request. Nothing is wrong with the request: send it again."
        )
        self.reason = f"the worker '{name}' went away"
        self.had_begun = had_begun


class WrongAnswer(WorkerLost):
    """A worker whose answer does not fit what it was asked."""

    code = "worker_failed"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.args = (
            f"The worker '{name}' gave an answer that does not match this request ({reason}). Nothing is wrong with the "
            "request: send it again, and tell the server's admin.",
        )


class NotTaken(BioEngineError):
    """A worker may not join."""

    code = "worker_refused"
    status = 409


class OtherVersion(NotTaken):
    code = "other_version"

    def __init__(self, version: str) -> None:
        super().__init__(
            f"The worker has version {version} of BioEngine, and the server {VERSION}. Install the server's version on the "
            "worker's machine."
        )


class ClockOff(NotTaken):
    code = "clock_off"

    def __init__(self, seconds: float) -> None:
        how = "behind" if seconds < 0 else "ahead of"
        super().__init__(
            f"The clock of the worker's machine is {abs(seconds):.0f} s {how} the server's. Set both by NTP (such as "
            "`systemctl enable --now systemd-timesyncd`), and start the worker again."
        )


class NameTaken(NotTaken):
    code = "worker_name_taken"

    def __init__(self, name: str, host: str) -> None:
        super().__init__(
            f"There is a worker '{name}' already, on {host}. Give this one another name, with --name or BIOENGINE_WORKER_NAME."
        )


class CannotWork(NotTaken):
    """`problem`: what the worker says of itself."""

    code = "worker_cannot_work"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class HasLeft(NotTaken):
    """A worker that has left with this start joins no more: its request has come late."""

    code = "worker_has_left"
    status = 410

    def __init__(self, name: str) -> None:
        super().__init__(f"The worker '{name}' has left. Start it again to have it join.")


class NotJoined(BioEngineError):
    """The lease of a worker is over, or the server was started again: it has to join anew."""

    code = "not_joined"
    status = 410

    def __init__(self, name: str) -> None:
        super().__init__(f"The worker '{name}' is not joined, or no longer. It joins again by itself.")


class NoSuchWorker(BioEngineError):
    code = "no_such_worker"
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no worker {name[:80]!r}. `./bioengine workers` lists those that are joined.")
