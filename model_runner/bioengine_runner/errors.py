"""The errors of a model's process: of its weights, its tiles and its processing steps, one class for each.

    package -> weights -> inputs -> tiles -> prediction -> outputs
               |          |        |         |
               |          |        |         StepFailed, WrongOutputs
               |          |        CannotTile: TilesNotPossible; TileNotPossible, TooManyTiles
               |          Misfit (bioengine_contract.tensors.errors)
               WeightsError: WeightsDamaged, WeightsNotOpened, WeightsFail, NoGpu

Errors of requests and packages before they reach this process, and errors about processes and memory, are in
`bioengine_contract`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bioengine_contract.errors import RequestError

from bioengine_runner.cards import Problem


class WeightsError(RequestError):
    """Weights of one format could not be opened. `reason`: why, as a short phrase."""

    code = "weights_not_opened"

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class WeightsDamaged(WeightsError):
    code = "weights_damaged"

    def __init__(self, model_id: str, weight_format: str, file: str, problem: str) -> None:
        super().__init__(
            f"The {weight_format} weights of model '{model_id}' ({file}) are damaged: {problem}. "
            "Ask the server's admin to import the model again with `./bioengine models import`.",
            f"damaged ({file}: {problem})",
        )


class WeightsNotOpened(WeightsError):
    code = "weights_not_opened"

    def __init__(self, model_id: str, weight_format: str, file: str, problem: str) -> None:
        super().__init__(
            f"The {weight_format} weights of model '{model_id}' ({file}) cannot be opened: {problem}. "
            "Ask the server's admin to look at its log, and to import the model again with `./bioengine models import` if the "
            "file is damaged; or use another weight_format.",
            f"failed to open ({problem})",
        )


class WeightsFail(WeightsError):
    """The weights were opened, but a first run fails. `problems`: known problems of the machine's cards."""

    code = "weights_fail"

    def __init__(self, model_id: str, weight_format: str, device: str, reason: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(
            f"The {weight_format} weights of model '{model_id}' were opened on the device {device}, and a first run on a small "
            f"image fails there: {reason}. {_in_words(problems)}Ask the server's admin to run `./bioengine doctor` and to look "
            "at the server's log, or to have models compute on the CPU with BIOENGINE_ACCELERATOR=cpu; or use another "
            "weight_format.",
            "; ".join([f"opened on the device {device}, where a first run fails ({reason})", *map(str, problems)]),
        )


class NoGpu(WeightsError):
    """The weights would not compute on a GPU. `problems`: known problems of the machine's cards."""

    code = "no_gpu"

    def __init__(self, model_id: str, weight_format: str, active: str, problems: Sequence[Problem] = ()) -> None:
        reason = f"would compute on the device {active}, but this server is set to use a GPU (BIOENGINE_ACCELERATOR=cuda)"
        super().__init__(
            f"Model '{model_id}' was not loaded: its {weight_format} weights {reason}. {_in_words(problems)}Ask the server's "
            "admin to check that `nvidia-smi` shows the GPU where the server runs, or to set BIOENGINE_ACCELERATOR=cpu, and to "
            "restart the server.",
            "; ".join([reason, *map(str, problems)]),
        )


class CannotTile(RequestError):
    code = "cannot_tile"

    def __init__(self, model_id: str, reason: str, images: Sequence[str] = ()) -> None:
        """`images`: the outputs that can be put together from tiles."""
        self.reason = reason
        super().__init__(
            f"Images of this size do not fit model '{model_id}', and cannot be padded or cut into tiles: {reason}. "
            f"Send an image of a size that the model takes.{_for_images_alone(images)}"
        )


class TileNotPossible(RequestError):
    code = "tile_not_possible"

    def __init__(self, model_id: str, axis: str, wanted: int, allowed: str) -> None:
        super().__init__(
            f"A tile of {wanted} along {axis} is not possible for model '{model_id}': it can be {allowed}. "
            "Give such a size as `tile`, or leave `tile` out."
        )


class TilesNotPossible(CannotTile):
    """The client asked for tiles, but the model can only run the whole image."""

    code = "tiles_not_possible"

    def __init__(self, model_id: str, axis: str, images: Sequence[str] = ()) -> None:
        self.reason = "not all of its outputs are images that could be put together from tiles"
        RequestError.__init__(
            self,
            f"Model '{model_id}' cannot work on tiles along {axis}: {self.reason}. Leave out `tile` to run the image whole."
            f"{_for_images_alone(images)}",
        )


def _for_images_alone(images: Sequence[str]) -> str:
    """A sentence that says how to ask for these outputs alone, which is possible in tiles; empty if there are none."""
    return f" In tiles, it gives only its images: ask for them with `outputs`: {json.dumps([*images])}." if images else ""


class TooManyTiles(RequestError):
    code = "too_many_tiles"

    def __init__(self, model_id: str, tiles: int, pieces: int, most: int, tile: Mapping[str, int]) -> None:
        """`pieces`: the parts that the batch is split into. `tile`: tile sizes that would work; empty for no suggestion."""
        count = f"{tiles} tiles" if pieces == 1 else f"{tiles} tiles for each of {pieces} pieces of the batch"
        remedy = f"Ask for a larger tile, such as tile={dict(tile)}, or send" if tile else "Send"
        super().__init__(
            f"Model '{model_id}' would have to work on {count}, but one request may have at most {most}. "
            f"{remedy} the image in parts."
        )


class StepFailed(RequestError):
    """`step`: such as 'binarize'. `kind`: "pre-processing" or "post-processing". `tensor`: the tensor that it processes."""

    code = "step_failed"

    def __init__(self, model_id: str, kind: str, step: str, tensor: str, version: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not be run: its {kind} step '{step}' (of '{tensor}') fails in the reference "
            f"implementation, bioimageio.core {version}: {reason}. If the model's own test input fails too, no "
            "other input helps: ask the model's authors to describe the step in another way, or use another model."
        )


class WrongOutputs(RequestError):
    code = "wrong_outputs"

    def __init__(self, model_id: str, weight_format: str, problem: str) -> None:
        super().__init__(
            f"Model '{model_id}' ran, but its result cannot be used: its {weight_format} weights {problem}. No other input "
            "helps: ask the model's authors to correct its weights or its description, or use another weight_format if it "
            "has one."
        )


def _in_words(problems: Sequence[Problem]) -> str:
    return "".join(f"On this machine, {problem} " for problem in problems)
