"""Run an image that is far larger than a model takes at once: the memory of the run, and whether its tiles fit together.

The image is made, sent and received in pieces, in Triton's own protocol through `/triton`, so only the server holds all of it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence

import httpx
import numpy as np

from bioengine_server.bench.core import check_same
from bioengine_server.bench.errors import BenchFailed, TooLittleSharedMemory
from bioengine_server.bench.measurement import Measurement
from bioengine_server.bench.stack import BenchStack

_MODEL = "bench-uint16"
_CLIENT = "/triton"
_SIDE = 16384  # pixels
_BAND = 256  # rows that are made at once
_BORDER = 16  # rows; more than the model sees of what is beside a pixel


def huge(stack: BenchStack, rounds: int, side: int = _SIDE) -> list[Measurement]:
    """Run the image once, whatever `rounds` is. Raises BenchFailed, TooLittleSharedMemory."""
    pixels = side * side
    _check_shared_memory(pixels * (np.dtype(np.uint16).itemsize + np.dtype(np.float32).itemsize))
    url = f"{stack.settings.url}/triton/v2/models/{_MODEL}/infer"
    image = _Image(side)
    # The first run loads the model.
    _run(url, image, [0], [])
    bands = range(side // _BAND)
    looked_at = sorted({0, len(bands) // 3, len(bands) // 2, len(bands) - 1})
    with stack.peak_memory() as whole, stack.peak_memory(_MODEL) as model:
        started = time.perf_counter()
        outputs = _run(url, image, bands, looked_at)
        seconds = time.perf_counter() - started
    for band, output in zip(looked_at, outputs):
        (alone,) = _run(url, image, [band], [0])
        check_same(output[_BORDER:-_BORDER], alone[_BORDER:-_BORDER], _CLIENT)
    name = f"{side}x{side}"
    size = Measurement(f"image {name}, uint16", "MB", (pixels * 2 / 1e6,))
    return [
        size,
        Measurement(f"memory, peak while {name} is run", "MB", (max(whole) / 1e6,), size),
        Measurement(f"memory, peak of the model for {name}", "MB", (max(model) / 1e6,), size),
        Measurement(f"run of {name}, through /triton", "ms", (seconds * 1000,)),
    ]


class _Image:
    """An image of bands with the same random pixels, each shifted by a different distance.

    Each band has the mean and the deviation of the whole image. So the model's output for a band alone is the same, except for
    the rows at its border.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self._pixels = np.random.default_rng(side).integers(0, 2**16, (_BAND, side), np.uint16)

    def band(self, number: int) -> bytes:
        distance = np.random.default_rng(number).integers(0, self._pixels.shape)
        return np.roll(self._pixels, distance, (0, 1)).tobytes()


def _run(url: str, image: _Image, bands: Sequence[int], wanted: Sequence[int]) -> list[np.ndarray]:
    """Run an image of some bands. Returns the output, (256, side) float32, at the places of the image that are `wanted`."""
    shape = [1, 1, len(bands) * _BAND, image.side]
    size = 2 * shape[2] * shape[3]
    description = {"name": "image", "shape": shape, "datatype": "UINT16", "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [description], "parameters": {"binary_data_output": True}}).encode()

    def body() -> Iterator[bytes]:
        yield header
        for band in bands:
            yield image.band(band)

    headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Length": str(len(header) + size)}
    try:
        with httpx.stream("POST", url, content=body(), headers=headers, timeout=None) as answer:  # noqa: S113  as long as it takes
            if answer.is_error:
                raise BenchFailed(_CLIENT, answer.read().decode(errors="replace"))
            outputs = _pieces(answer, 4 * _BAND * image.side, wanted)
    except httpx.HTTPError as error:
        raise BenchFailed(_CLIENT, f"{type(error).__name__}: {error}") from error
    return [np.frombuffer(output, np.float32).reshape(_BAND, image.side) for output in outputs]


def _pieces(answer: httpx.Response, size: int, wanted: Sequence[int]) -> list[bytearray]:
    """The pieces of an answer's tensor that are `wanted`, by number; others are dropped. `size`: bytes of one piece."""
    pieces = {int(answer.headers["Inference-Header-Content-Length"]) + number * size: bytearray() for number in wanted}
    position = 0
    for chunk in answer.iter_raw():
        for start, piece in pieces.items():
            piece.extend(chunk[max(start - position, 0) : max(start + size - position, 0)])
        position += len(chunk)
    return list(pieces.values())


def _check_shared_memory(needed: int) -> None:
    free = shutil.disk_usage("/dev/shm").free
    if free < needed:
        raise TooLittleSharedMemory(needed, free)
