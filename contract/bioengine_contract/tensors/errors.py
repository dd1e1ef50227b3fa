"""Errors for inputs that do not fit a model: their number, axes, sizes and dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from bioengine_contract.errors import RequestError


class Misfit(RequestError):
    """The inputs do not fit the model."""

    code = "inputs_do_not_fit"

    def with_help(self, help: str) -> Self:
        """This error with `help`, which says what the model takes, added to its message."""
        self.args = (f"{self} {help}",)
        return self


class WrongInputCount(Misfit):
    code = "wrong_input_count"

    def __init__(self, names: Sequence[str], given: int) -> None:
        expected = f"{len(names)} input{'' if len(names) == 1 else 's'} ({', '.join(names)})"
        given_count = f"{given} {'was' if given == 1 else 'were'} given"
        super().__init__(
            f"The model takes {expected}, but {given_count}. Send `inputs` as a list with one array for each, in this order."
        )


class NotAnArray(Misfit):
    code = "not_an_array"

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"Input '{name}' is {what}. Expected a NumPy array of numbers, or a list of such arrays, one for each sample."
        )


class BadAxes(Misfit):
    """`axes` is not valid, or does not match the array or the model."""

    code = "bad_axes"


class WrongAxes(Misfit):
    code = "wrong_axes"

    def __init__(self, name: str, shape: Sequence[int], problem: str) -> None:
        super().__init__(f"Input '{name}' has the shape {tuple(shape)}. {problem}")


class WrongSize(Misfit):
    code = "wrong_size"

    def __init__(self, name: str, shape: Sequence[int], problems: Sequence[str], advice: str = "") -> None:
        super().__init__(f"Input '{name}' has the shape {tuple(shape)}: {'; '.join(problems)}. {advice}".rstrip())


class BadTile(Misfit):
    code = "bad_tile"

    def __init__(self, given: str, axes: Sequence[str]) -> None:
        super().__init__(
            f"`tile` is {given}. Expected the size of tiles in pixels, or a dict of sizes for {', '.join(axes) or 'no axis'}."
        )


class BadOutputs(Misfit):
    code = "bad_outputs"

    def __init__(self, given: str, names: Sequence[str]) -> None:
        super().__init__(
            f"`outputs` is {given}. Expected a list of names of the model's outputs, each once, out of: {', '.join(names)}. "
            "Leave it out to get all of them."
        )


class LossyCast(Misfit):
    """`problem`: what would be lost. `advice`: a sentence that says how to convert the array."""

    code = "lossy_cast"

    def __init__(self, name: str, given: str, wanted: str, problem: str, advice: str) -> None:
        super().__init__(f"Input '{name}' is {given}, but the model takes {wanted}: {problem}. {advice}")
