"""Prediction with bioimageio.core: pre-processing, weights and post-processing of one package, kept in memory.

    arrays -> statistics of the whole -> tiles -> pre-processing -> forward -> post-processing -> put together -> arrays

Steps that need the whole image get it; the others are done tile by tile. bioimageio.core 0.11's own blocking pads tiles at the
image's border, where a whole image is not, so that the two differ there; and it knows neither format 0.4 nor models that make
images smaller. So the tiles are planned here (`bioengine_runner.tiling`), and its operators and adapters used on each.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import numpy as np
from bioengine_contract.errors import RequestError
from bioengine_contract.model_errors import TooLittleMemory
from bioengine_contract.package import Package
from bioimageio.core.common import MemberId

from bioengine_runner.description import open_description
from bioengine_runner.foreign import bioimageio_core
from bioengine_runner.opened import Blocks
from bioengine_runner.rest import Rest
from bioengine_runner.rundir import Boot
from bioengine_runner.signature import Arrays
from bioengine_runner.tiling import memory
from bioengine_runner.tiling.budget import PROBE, Budget
from bioengine_runner.tiling.exhausted import is_about_memory, is_too_large
from bioengine_runner.tiling.plan import Plan
from bioengine_runner.trial import give_back, prepared
from bioengine_runner.weights import open_weights

logger = logging.getLogger(__name__)

# On the CPU, requests share a batch of at most so many pixels: 16 images of 64x64 take 0.7 ms each in one batch and 1.05 ms one
# by one, but of 256x256 17 ms and 14 ms (a small U-Net, two cores, ONNX Runtime 1.32).
_MAX_JOINED_ON_CPU = 65_536

# A change of the memory that a process holds on a card is reported if it is larger than this number of bytes.
_CHANGE = 64 << 20

OnTile = Callable[[int, int], None]
"""Called before each tile with its number, beginning with 1, and how many there are; what it raises ends the run."""


def _unheard(number: int, of: int) -> None:
    pass


Prediction = list[np.ndarray]


class Pipeline:
    """A package's prediction pipeline on this machine's device."""

    def __init__(self, package: Package, weight_formats: Sequence[str], boot: Boot) -> None:
        """Open the package and its weights. Raises LibraryChanged, PackageUnreadable, and what `open_weights` raises."""
        bioimageio_core.check()
        self._id = package.id
        self.opened = open_weights(package, open_description(package), weight_formats, boot)
        self.signature = self.opened.signature
        self._budget = Budget(package.id, self.opened.memory, self._probe)
        self._rest = Rest(self._give_back)
        self._when_memory_changes: Callable[[], None] | None = None

    @property
    def gpu_memory(self) -> int:
        """The bytes that this process holds on a card, estimated; 0 on the CPU."""
        return self.opened.memory.on_card

    def when_memory_changes(self, tell: Callable[[], None]) -> None:
        """Call `tell` when `gpu_memory` has changed considerably since now, or which shapes have sessions of their own."""
        memory, shapes = self.gpu_memory, self.opened.own_shapes

        def tell_changes() -> None:
            if abs(self.gpu_memory - memory) > _CHANGE or self.opened.own_shapes != shapes:
                tell()

        self._when_memory_changes = tell_changes

    def predict(
        self,
        arrays: Arrays,
        tile: Mapping[str, int] | None = None,
        on_tile: OnTile = _unheard,
        outputs: Container[str] | None = None,
    ) -> Prediction:
        """Run the model on images of any size: whole where that fits into memory, else in tiles.

        Args:
            arrays: one for each input, with the model's axes and dtypes; sizes of image and batch axes as they come. None for an
                optional input that is left out.
            tile: the size of tiles by axis, where they are wanted.
            on_tile: called before each tile.
            outputs: the names of the outputs that are wanted; None for all.

        Returns one array for each of these outputs, in the model's order and with the model's output axes.

        Raises CannotTile, TileNotPossible, TilesNotPossible, TooManyTiles, TooLittleMemory, WrongOutputs, StepError, and whatever
        the model raises, and `on_tile`.
        """
        given = self.signature.pixels(arrays)
        most, has_failed = self._budget.most_pixels(given), False
        while True:
            run = self.signature.run(self.opened.pipeline(), arrays, most, tile, outputs)
            self._check_memory(arrays, run.plan, tile, outputs)
            try:
                for number, block in enumerate(run.blocks(), 1):
                    on_tile(number, len(run.plan))
                    run.put(block, self._forward(block.arrays))
                if has_failed:
                    self._budget.worked(most)
                return run.result()
            except Exception as error:
                smaller = min(most, given, run.plan.pixels) / 4
                if not is_too_large(error):
                    raise
                if not self._makes_more_tiles(arrays, smaller, tile, outputs, len(run.plan)):
                    if is_about_memory(error):
                        raise self._too_little_memory(arrays, run.plan, tile, outputs) from None
                    raise
                logger.warning("%s: %s at once are too many, trying smaller tiles (%s)", self._id, run.plan.block, error)
                most, has_failed = smaller, True
            self.opened.keep_less()
            self._give_back()

    def predict_together(
        self,
        requests: Sequence[Arrays],
        on_tiles: Sequence[OnTile] | None = None,
        outputs: Sequence[Container[str] | None] | None = None,
    ) -> list[Prediction | BaseException]:
        """The same for several requests at a time: those of one size that fit whole go through the model in one batch.

        Pre- and post-processing is of each request alone. `on_tiles`, `outputs`: one for each request.
        """
        wanted = outputs or [None] * len(requests)
        if len(requests) > 1:
            try:
                if self._batches_freely(requests):
                    return list(self._predict_as_batch(requests, wanted))
            except BaseException as error:
                # One of them, or all together: each finds out for itself.
                logger.info("%s: %d requests in one batch failed (%s)", self._id, len(requests), error)
        each = zip(requests, on_tiles or [_unheard] * len(requests), wanted)
        return [self._predicted(arrays, on_tile, names) for arrays, on_tile, names in each]

    def fits_whole(self, arrays: Arrays) -> bool:
        """Whether they go through the model in one piece, as far as memory is concerned."""
        return len(self.signature.plan(arrays, self._budget.most_pixels(self.signature.pixels(arrays)))) == 1

    def _predicted(self, arrays: Arrays, on_tile: OnTile, outputs: Container[str] | None) -> Prediction | BaseException:
        try:
            return self.predict(arrays, on_tile=on_tile, outputs=outputs)
        except BaseException as error:  # sys.exit() in a package's code as well
            return error

    def _predict_as_batch(self, requests: Sequence[Arrays], wanted: Sequence[Container[str] | None]) -> Iterator[Prediction]:
        runs = [
            self.signature.run(self.opened.pipeline(), arrays, float("inf"), None, names)
            for arrays, names in zip(requests, wanted)
        ]
        blocks = [next(run.blocks()) for run in runs]
        joined = {id: np.concatenate([block.arrays[id] for block in blocks]) for id in blocks[0].arrays}
        outputs = self._forward(joined)
        start = 0
        for run, block in zip(runs, blocks):
            stop = start + run.plan.batch
            run.put(block, {id: output[start:stop] for id, output in outputs.items()})
            start = stop
            yield run.result()

    def _batches_freely(self, requests: Sequence[Arrays]) -> bool:
        """Whether requests can share a batch: a free one, first of the axes, of images of one size that fit together."""
        if not self.signature.has_free_batch:
            return False
        if len({tuple(None if array is None else array.shape[1:] for array in arrays) for arrays in requests}) > 1:
            return False
        samples = sum(next(len(array) for array in arrays if array is not None) for arrays in requests)
        pixels = sum(map(self.signature.pixels, requests))
        if not self.opened.is_on_card and pixels > _MAX_JOINED_ON_CPU:
            return False
        samples = self.opened.padded_samples(samples, pixels)
        together = [None if array is None else np.broadcast_to(array[:1], (samples, *array.shape[1:])) for array in requests[0]]
        return self.fits_whole(together)

    def _forward(self, arrays: Blocks) -> dict[MemberId, np.ndarray]:
        pixels = self.signature.pixels([arrays.get(id) for id, _ in self.signature.inputs])
        if pixels <= PROBE:
            try:
                return self.opened.forward(arrays)
            finally:
                self._tell_memory()
        try:
            with self.opened.memory.counted(), self._budget.learning(pixels):
                return self.opened.forward(arrays)
        finally:
            self._rest.start_again()
            self._tell_memory()

    def _check_memory(self, arrays: Arrays, plan: Plan, tile: Mapping[str, int] | None, outputs: Container[str] | None) -> None:
        """Refuse a run that needs more memory than there is: on the CPU, the process would be killed. Raises TooLittleMemory."""
        needs = self._budget.needs(plan.pixels)
        if needs is not None and needs > self._budget.free():
            raise self._too_little_memory(arrays, plan, tile, outputs)

    def _too_little_memory(
        self, arrays: Arrays, plan: Plan, tile: Mapping[str, int] | None, outputs: Container[str] | None
    ) -> TooLittleMemory:
        needs, free = self._budget.needs(plan.pixels), self._budget.free()
        smaller: dict[str, int] = {}
        with contextlib.suppress(RequestError):
            most = min(self._budget.most_pixels(plan.pixels), plan.pixels / 4)
            fitting = self.signature.plan(arrays, most, outputs=outputs)
            smaller = fitting.block if len(fitting) > len(plan) else {}
        return TooLittleMemory(self._id, self.opened.device, plan.pixels, needs, free, smaller, tile is not None)

    def _makes_more_tiles(
        self, arrays: Arrays, most: float, tile: Mapping[str, int] | None, outputs: Container[str] | None, than: int
    ) -> bool:
        """Whether images can be cut into more tiles than before, where fewer pixels go through the model at once."""
        try:
            return len(self.signature.plan(arrays, most, tile, outputs)) > than
        except RequestError:
            return False

    def _give_back(self) -> None:
        """Return the memory that the framework keeps for images."""
        give_back(self.opened)
        memory.give_back()
        self.opened.memory.given_back()
        self._tell_memory()

    def _tell_memory(self) -> None:
        if self._when_memory_changes is not None:
            try:
                self._when_memory_changes()
            except OSError as error:  # a full disk
                logger.warning("%s: what it holds of the card could not be recorded (%s)", self._id, error)

    def _probe(self) -> int:
        """Run the weights on a made-up image without memory kept from before. Returns the number of its pixels."""
        arrays = prepared(self.opened, PROBE)
        self._give_back()
        self.opened.forward(arrays)
        return self.signature.pixels([arrays.get(id) for id, _ in self.signature.inputs])
