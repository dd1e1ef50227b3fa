"""What callers do, one action after the other, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Then = Literal["wait", "cancel", "vanish"]

CALLERS = ("imjoy-rpc", "hypha-rpc", "imjoy-rpc", "hypha-rpc", "http", "triton")
_RPC = ("imjoy-rpc", "hypha-rpc")


@dataclass(frozen=True)
class Image:
    """A float32 image, of values that follow from its seed."""

    model: str
    shape: tuple[int, ...]
    seed: int

    def told(self) -> dict[str, Any]:
        return {"shape": self.shape, "seed": self.seed}


@dataclass(frozen=True)
class Action:
    """One request.

    Attributes:
        kind: what it is called in the report.
        request: for the model; images as they are told.
        then: what becomes of it.
        after: seconds until it is cancelled, or its client vanishes.
        expected: file of the right answer, or None.
        right: outcomes that are right, apart from what a kill excuses.
    """

    kind: str
    request: dict[str, Any]
    right: tuple[str, ...]
    then: Then = "wait"
    after: float = 0.0
    expected: Path | None = None

    def told(self) -> dict[str, Any]:
        expected = None if self.expected is None else str(self.expected)
        return {"request": self.request, "then": self.then, "after": self.after, "expected": expected}


IMAGES = [
    *(Image("bench-echo", (1, 1, side, side), seed) for side in (16, 300, 1024) for seed in (1, 2)),
    *(Image("drawn-nuclei", (1, 1, *sides), seed) for sides in ((96, 96), (256, 320), (512, 512)) for seed in (1, 2)),
    *(Image("bench-unet", (1, 1, side, side), seed) for side in (128, 256) for seed in (1, 2)),
    Image("bench-unet-3d", (1, 1, 20, 64, 64), 1),
]
"""Models and sizes in turn."""

LONG = Image("bench-unet", (1, 1, 1024, 1024), 1)
"""A run of seconds without a card, for those who do not wait for it."""

LARGE = Image("bench-echo", (1, 1, 2048, 2048), 1)
"""16 MB, for those who vanish while they send it."""

_SMALL = Image("bench-echo", (1, 1, 16, 16), 1).told()
_TWO_CHANNELS = Image("bench-echo", (1, 2, 16, 16), 1).told()


def _bad(name: str, code: str, model: str = "bench-echo", inputs: Any = (_SMALL,), **options: Any) -> Action:
    return Action(f"bad input: {name}", {"model_id": model, "inputs": list(inputs), **options}, (code,))


BAD = [
    _bad("no such model", "model_not_found", model="no-such-model"),
    _bad("no model id", "bad_model_id", model="../etc"),
    _bad("two inputs", "wrong_input_count", inputs=(_SMALL, _SMALL)),
    _bad("text for an image", "not_an_array", inputs=("words",)),
    _bad("too many channels", "wrong_size", inputs=(_TWO_CHANNELS,)),
    _bad("axes that are none", "bad_axes", axes="qq"),
    _bad("a tile of no size", "bad_tile", tile=-1),
    _bad("weights that are not there", "weights_not_available", weight_format="tensorflow_js"),
]

BAD_FOR_TRITON = [
    _bad("no such model", "model_not_found", model="no-such-model"),
    _bad("an input of another name", "inference_failed", input="picture"),
    _bad("too many channels", "wrong_size", inputs=(_TWO_CHANNELS,)),
    _bad("a tensor that is cut", "bad_inference", claimed_size=1 << 20),
]


@dataclass
class Plan:
    """The actions of one caller.

    Attributes:
        kind: one of `program.KINDS`.
        seed: of all that it does.
        answers: files of the right answers.
    """

    kind: str
    seed: str
    answers: dict[Image, Path]
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311  # it guards nothing, and is to be repeated

    def __iter__(self) -> Iterator[Action]:
        """Without an end."""
        makers = [self._run, self._bad, self._vanish_sending, self._vanish_running]
        weights = [80.0, 12.0, 2.0, 2.0]
        if self.kind in _RPC:
            makers.append(self._cancel)
            weights.append(4.0)
        while True:
            (make,) = self._random.choices(makers, weights)
            yield make()

    def _run(self) -> Action:
        image = self._random.choice(IMAGES)
        return Action("run", self._request(image), ("right",), expected=self.answers[image])

    def _bad(self) -> Action:
        return self._random.choice(BAD_FOR_TRITON if self.kind == "triton" else BAD)

    def _cancel(self) -> Action:
        after = self._random.uniform(0, 1)
        return Action("cancelled run", self._request(LONG), ("cancelled", "result"), "cancel", after)

    def _vanish_sending(self) -> Action:
        return self._vanish("client that vanishes while it sends", LARGE, 0.1)

    def _vanish_running(self) -> Action:
        return self._vanish("client that vanishes while its model runs", LONG, 1.5)

    def _vanish(self, kind: str, image: Image, within: float) -> Action:
        after = self._random.uniform(0, within)
        return Action(kind, self._request(image), ("vanished", "result"), "vanish", after)

    def _request(self, image: Image) -> dict[str, Any]:
        return {"model_id": image.model, "inputs": [image.told()]}
