"""What can go wrong with a request, one class each.

    bytes -> request -> package -> tensors -> prediction -> result -> bytes
          |          |          |          |
          |          |          |          CannotTile, TileNotPossible, TilesNotPossible, TooManyTiles, ModelNotOpened,
          |          |          |          ModelNotLoaded, RunDirUnusable, EnvironmentGone, ModelFailed, StepFailed,
          |          |          |          WrongOutputs, ModelProcessDied, RunTookTooLong
          |          |          Misfit: WrongInputCount, NotAnArray, BadAxes, WrongAxes, WrongSize, BadTile, LossyCast
          |          BadModelId, ModelNotFound, PackageRunsCode, PackageUnreadable, WeightsNotAvailable, NoWeightsWork,
          |          WeightsDamaged, WeightsNotOpened, NoGpu
          BadRequest: UnknownKey

Each message says what was wrong, what was expected and what to do. These reach the client as
`{"success": False, "error": message}`; anything else is a fault of the server and shows nothing of its insides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

# Triton wraps a message of ours into its own text and a traceback; the marks find it again on the other side.
_OPEN, _CLOSE = "«bioengine ", "»"

# What people call a key of a request, where another is near by its letters, or none.
_SYNONYMS = dict.fromkeys(("array", "arrays", "data", "image", "images"), "inputs")


class RequestError(Exception):
    """A request that cannot be served, with a message for the person who sent it."""

    def marked(self) -> str:
        """The message in marks that survive a way through Triton."""
        return f"{_OPEN}{self}{_CLOSE}"


def unmark(text: str) -> str | None:
    """Our message within a text of Triton's, or None where it has none."""
    found = re.search(re.escape(_OPEN) + "(.*?)" + re.escape(_CLOSE), text, flags=re.DOTALL)
    return found.group(1) if found else None


def shorten(value: object, limit: int = 80) -> str:
    """`repr(value)`, cut where a message would become unreadable."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest_name(name: object, known: Sequence[str]) -> str | None:
    """Which of the names that are known is meant by one that is not: spelt nearly so, or with it among its words."""
    word = str(name)[:80].lower()
    near = [_SYNONYMS[word]] if _SYNONYMS.get(word) in known else get_close_matches(word, known, 1)
    return next((candidate for candidate in (*near, *known) if candidate in near or word in candidate.split("_")), None)


class BadRequest(RequestError):
    """The request is not what the runner reads."""


class UnknownKey(BadRequest):
    def __init__(self, key: object, known: Sequence[str]) -> None:
        near = f" Did you mean {nearest!r}?" if (nearest := nearest_name(key, known)) else ""
        super().__init__(f"The request has the unknown key {shorten(key)}.{near} Known are {', '.join(known)}.")


class BadModelId(RequestError):
    def __init__(self, model_id: object) -> None:
        super().__init__(
            f"model_id {shorten(model_id)} is not a model id. Expected a nickname like 'affable-shark', a nickname with a "
            "version like 'affable-shark/1.1', or a DOI like '10.5281/zenodo.5869899'. "
            "Paths, URLs and drafts are not taken: ask for a stored model by its id."
        )


class ModelNotFound(RequestError):
    def __init__(self, model_id: str, known: Sequence[str]) -> None:
        self.model_id = model_id
        have = f"It has: {', '.join(known)}." if known else "Its store is empty."
        super().__init__(
            f"No model {shorten(model_id)} on this server. {have} "
            "Check the spelling, or ask the server's admin to import it with `./bioengine models import`."
        )


class PackageUnreadable(RequestError):
    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"The stored package of model '{model_id}' cannot be read: {reason}. "
            "Ask the server's admin to import it again with `./bioengine models import`."
        )


class PackageRunsCode(RequestError):
    def __init__(self, model_id: str, code: Sequence[str], other_content: bool) -> None:
        trusted = "trusted it with another content, before it was imported again" if other_content else "not trusted it"
        super().__init__(
            f"Model '{model_id}' brings Python code of its own ({'; '.join(code)}), and this server's admin has {trusted}. "
            f"Ask the admin to look at the code and, to trust it, to run `./bioengine models show {model_id}` and add the entry "
            "that it prints to BIOENGINE_TRUSTED_MODELS; or use a model with ONNX or TorchScript weights and standard processing."
        )


class WeightsNotAvailable(RequestError):
    def __init__(self, model_id: str, wanted: object, usable: Sequence[str]) -> None:
        super().__init__(
            f"Model '{model_id}' has no weights in the format {shorten(wanted)} that this server runs. "
            + (
                f"It can be run with weight_format {' or '.join(repr(name) for name in usable)}; leave it out for the fastest."
                if usable
                else "Leave weight_format out to see what each of its formats lacks."
            )
        )


class NoWeightsWork(RequestError):
    """`reasons`: why not, for each format of the package's weights."""

    def __init__(self, model_id: str, reasons: Mapping[str, str]) -> None:
        super().__init__(
            f"None of the weights of model '{model_id}' can be run on this server: "
            f"{'; '.join(f'{name}: {reason}' for name, reason in reasons.items()) or 'it has none'}. "
            "Expected ONNX or TorchScript weights that can be opened. Ask the server's admin, whose log has more and who can "
            "import the model again with `./bioengine models import`, or ask its authors for such weights."
        )


class WeightsError(RequestError):
    """Weights of one format that were not opened. `reason`: why, in short."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class WeightsDamaged(WeightsError):
    def __init__(self, model_id: str, weight_format: str, file: str, problem: str) -> None:
        super().__init__(
            f"The {weight_format} weights of model '{model_id}' ({file}) are damaged: {problem}. "
            "Ask the server's admin to import the model again with `./bioengine models import`.",
            f"damaged ({file}: {problem})",
        )


class WeightsNotOpened(WeightsError):
    def __init__(self, model_id: str, weight_format: str, file: str, problem: str) -> None:
        super().__init__(
            f"The {weight_format} weights of model '{model_id}' ({file}) cannot be opened: {problem}. "
            "Ask the server's admin to look at its log, and to import the model again with `./bioengine models import` if the "
            "file is damaged; or use another weight_format.",
            f"failed to open ({problem})",
        )


class NoGpu(WeightsError):
    def __init__(self, model_id: str, weight_format: str, active: str) -> None:
        reason = f"would compute on the device {active}, and this server is set to use a GPU (BIOENGINE_ACCELERATOR=cuda)"
        super().__init__(
            f"Model '{model_id}' was not loaded: its {weight_format} weights {reason}. Ask the server's admin to check that "
            "`nvidia-smi` shows the GPU where the server runs, or to set BIOENGINE_ACCELERATOR=cpu, and to start it again.",
            reason,
        )


class Misfit(RequestError):
    """Inputs that do not fit the model."""

    def with_help(self, help: str) -> Misfit:
        """The same, and what the model takes."""
        self.args = (f"{self} {help}",)
        return self


class WrongInputCount(Misfit):
    def __init__(self, names: Sequence[str], given: int) -> None:
        expected = f"{len(names)} input{'' if len(names) == 1 else 's'} ({', '.join(names)})"
        super().__init__(
            f"The model takes {expected}, and {given} came. Send `inputs` as a list with one array for each, in this order."
        )


class NotAnArray(Misfit):
    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"Input '{name}' is {what}. Expected a NumPy array of numbers, or a list of such arrays, one for each sample."
        )


class BadAxes(Misfit):
    """`axes` that are not such, or do not go with the array or the model."""


class WrongAxes(Misfit):
    def __init__(self, name: str, shape: Sequence[int], problem: str) -> None:
        super().__init__(f"Input '{name}' has the shape {tuple(shape)}. {problem}")


class WrongSize(Misfit):
    def __init__(self, name: str, shape: Sequence[int], problems: Sequence[str], advice: str = "") -> None:
        super().__init__(f"Input '{name}' has the shape {tuple(shape)}: {'; '.join(problems)}. {advice}".rstrip())


class BadTile(Misfit):
    def __init__(self, given: str, axes: Sequence[str]) -> None:
        super().__init__(
            f"`tile` is {given}. Expected the size of tiles in pixels, or a dict of sizes for {', '.join(axes) or 'no axis'}."
        )


class LossyCast(Misfit):
    """`problem`: what would be lost. `advice`: a sentence with a way that works."""

    def __init__(self, name: str, given: str, wanted: str, problem: str, advice: str) -> None:
        super().__init__(f"Input '{name}' is {given} and the model takes {wanted}: {problem}. {advice}")


class CannotTile(RequestError):
    def __init__(self, model_id: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"Images of this size do not fit model '{model_id}', and cannot be padded or cut into tiles: {reason}. "
            "Send an image of a size that the model takes."
        )


class TileNotPossible(RequestError):
    def __init__(self, model_id: str, axis: str, wanted: int, allowed: str) -> None:
        super().__init__(
            f"A tile of {wanted} along {axis} is not possible for model '{model_id}': it can be {allowed}. "
            "Give such a size as `tile`, or leave `tile` out."
        )


class TilesNotPossible(CannotTile):
    """Tiles that were asked for, where the image could be run whole."""

    def __init__(self, model_id: str, axis: str) -> None:
        self.reason = "not all of its outputs are images that could be put together from tiles"
        RequestError.__init__(
            self,
            f"Model '{model_id}' cannot work on tiles along {axis}: {self.reason}. Leave out `tile`, and it is run whole.",
        )


class TooManyTiles(RequestError):
    def __init__(self, model_id: str, tiles: int, pieces: int, most: int, tile: Mapping[str, int]) -> None:
        """`pieces`: of the batch. `tile`: sizes that would do; empty where there are none, or none is needed."""
        count = f"{tiles} tiles" if pieces == 1 else f"{tiles} tiles for each of {pieces} pieces of the batch"
        remedy = f"Ask for a larger tile, such as tile={dict(tile)}, or send" if tile else "Send"
        super().__init__(
            f"Model '{model_id}' would have to work on {count}, and one request has at most {most} of them. "
            f"{remedy} the image in parts."
        )


class ModelFailed(RequestError):
    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not process these inputs: {reason}. "
            "Check the inputs against the model's documentation; its test input shows what it expects."
        )


class StepFailed(RequestError):
    """`step`: such as 'binarize'. `kind`: "pre-processing" or "post-processing". `tensor`: which it is of."""

    def __init__(self, model_id: str, kind: str, step: str, tensor: str, version: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not be run: its {kind} step '{step}' (of '{tensor}') fails in the reference "
            f"implementation, bioimageio.core {version}: {reason}. Where the model's own test input fails with it "
            "too, no other input helps: ask the model's authors to describe the step in another way, or use another model."
        )


class WrongOutputs(RequestError):
    def __init__(self, model_id: str, weight_format: str, problem: str) -> None:
        super().__init__(
            f"Model '{model_id}' ran, and its result cannot be read: its {weight_format} weights {problem}. No other input "
            "helps: ask the model's authors to correct its weights or its description, or use another weight_format where it "
            "has one."
        )


class ModelNotOpened(RequestError):
    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' cannot be opened: {reason}. Ask the server's admin, whose log has more and who can test the "
            f"package with `./bioengine models test {model_id}`, or the model's authors to mend it."
        )


class ModelNotLoaded(RequestError):
    """`reason`: what is known of it, as the second half of a sentence."""

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded: {reason}. "
            "Try again in a minute, or ask the server's admin to look at its log."
        )


class EnvironmentGone(RequestError):
    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded: the model runner's environment is gone. Ask the server's admin to end the "
            "server and to start it with `./bioengine up`, which builds the environment again."
        )


class RunDirUnusable(RequestError):
    def __init__(self, model_id: str, reason: object) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded: the server's run dir cannot be written ({reason}). Ask the server's admin "
            "to make room there, or to start the server again if it was removed; /health/readiness says what is missing."
        )


class ModelProcessDied(RequestError):
    """`reason`: what is known of its end, as the second half of a sentence."""

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' ended while it worked on this request, and again on a second try: {reason}. "
            "Send a smaller image, or ask the server's admin to look at its log."
        )


class RunTookTooLong(RequestError):
    def __init__(self, model_id: str, limit: float) -> None:
        super().__init__(
            f"Model '{model_id}' took longer than this server allows ({limit:g} s), and its run was ended. "
            "Send a smaller image, or ask the server's admin to raise BIOENGINE_RUN_TIMEOUT."
        )
