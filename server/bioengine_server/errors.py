"""What can go wrong in the server, one class each.

    command line -> stack           StackError: home or port in use, Triton does not start, ...
    package -> store                StoreError: a package that cannot be imported, an id that is not there
    client -> triton-client         RefusedArgument, Busy, TooLarge, TritonUnavailable

Each message says what was wrong, what was expected and what to do. What a model makes of a request is decided in the
runner (`bioengine_runner.errors`) and comes back as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class BioEngineError(Exception):
    """An error with a message for the person it reaches."""


class StackError(BioEngineError):
    """The stack cannot start."""


class HomeInUse(StackError):
    def __init__(self, home: Path, owner: str) -> None:
        super().__init__(
            f"A BioEngine is already running with the home {home} ({owner}). "
            "Use that one, end it first (Ctrl-C where it runs), or start another with --home FOLDER and --port NUMBER."
        )


class PortInUse(StackError):
    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"Cannot listen on {host}:{port} ({reason}). "
            "Another program has this port, perhaps another BioEngine. End it, or choose another with --port NUMBER."
        )


class UnsafeRunDir(StackError):
    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"The run dir {folder} {reason}. It must be a folder that only you can enter. "
            "Remove it, or name another with BIOENGINE_RUN_DIR."
        )


class StoreError(BioEngineError):
    """Something about the model store."""


class NotAPackage(StoreError):
    def __init__(self, source: Path, reason: str) -> None:
        super().__init__(
            f"{source} is not a bioimage.io model package: {reason}. "
            "Expected a folder or a .zip with an rdf.yaml and the files that it names."
        )


class InvalidPackage(StoreError):
    def __init__(self, source: Path, summary: str) -> None:
        super().__init__(
            f"The description in {source} is not valid, so nothing was imported:\n{summary}\n"
            "Correct rdf.yaml, or get the package again from where it came."
        )


class BadId(StoreError):
    def __init__(self, id: str) -> None:
        super().__init__(
            f"{id!r} cannot be a model's id. Expected letters, digits, '.', '_' and single '-', beginning with a letter or "
            "digit, at most 128, and not the model runner's own name. Name one with --id ID."
        )


class NotStored(StoreError):
    def __init__(self, id: str, known: Sequence[str]) -> None:
        have = f"Stored are: {', '.join(known)}." if known else "The store is empty."
        super().__init__(f"There is no model {id!r} in the store. {have}")


class RefusedArgument(BioEngineError):
    def __init__(self, name: str, advice: str) -> None:
        super().__init__(f"The argument '{name}' is refused: {advice}")


class Busy(BioEngineError):
    def __init__(self, waiting: int) -> None:
        super().__init__(f"The server is busy: {waiting} requests are waiting already. Try again in a minute.")


class TooLarge(BioEngineError):
    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"The inputs are {size / 1e6:.0f} MB, and this server takes at most {limit / 1e6:.0f} MB in one request. "
            "Send the image in parts, or ask the server's admin to raise BIOENGINE_MAX_REQUEST_SIZE."
        )


class TritonUnavailable(BioEngineError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The inference server did not answer ({reason}). It is being restarted if it belongs to this BioEngine: "
            "try again in a few seconds. If it lasts, ask the server's admin to look at its log."
        )
