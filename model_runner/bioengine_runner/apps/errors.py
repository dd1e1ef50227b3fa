"""The errors of apps: of their weights, found when an app is installed, and of what clients send."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bioengine_contract.errors import BioEngineError
from bioengine_contract.nearest import did_you_mean


class AppWeightsRefused(BioEngineError):
    """A file cannot be the weights of an app."""

    code = "app_weights_refused"

    def __init__(self, file: Path, app: str, problem: str, expected: str) -> None:
        super().__init__(f"{file.name} cannot be used as the weights of {app}: {problem}. Expected {expected}.")


class AppInputRefused(BioEngineError):
    """The image cannot be processed."""

    code = "app_input_refused"

    def __init__(self, problem: str, expected: str) -> None:
        super().__init__(f"`image`: {problem}. Expected {expected}.")


class AppParameterRefused(BioEngineError):
    """One of the parameters is unknown, or has a value that is not possible."""

    code = "app_parameter_refused"

    def __init__(self, problem: str) -> None:
        super().__init__(f"`param`: {problem}")

    @classmethod
    def unknown(cls, name: str, known: Iterable[str]) -> AppParameterRefused:
        known = list(known)
        return cls(f"there is no parameter {name[:60]!r}.{did_you_mean(name, known)} The known ones are {', '.join(known)}.")


class TooManyObjects(BioEngineError):
    """The mask's dtype cannot number all objects."""

    code = "too_many_objects"

    def __init__(self, count: int, most: int) -> None:
        super().__init__(
            f"The image has {count} objects, but the mask is uint16 and numbers at most {most}. Send parts of the image."
        )
