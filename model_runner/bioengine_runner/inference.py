"""Prediction with bioimageio.core: pre-processing, weights and post-processing of one package, kept in memory.

    arrays -> statistics of the whole -> tiles -> pre-processing -> forward -> post-processing -> put together -> arrays

Steps that need the whole image get it; the others are done tile by tile. bioimageio.core 0.11's own blocking pads tiles at the
image's border, where a whole image is not, so that the two differ there; and it knows neither format 0.4 nor models that make
images smaller. So the tiles are planned here (`bioengine_runner.tiling`), and its operators and adapters used on each.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.errors import RequestError
from bioengine_contract.manifest import RDF
from bioengine_contract.manifest import Tensor as TensorDescription
from bioengine_contract.package import Package
from bioengine_contract.package_errors import PackageUnreadable
from bioimageio.core import Sample, Tensor
from bioimageio.core.axis import AxisId
from bioimageio.core.common import MemberId
from bioimageio.spec import InvalidDescr, load_description
from bioimageio.spec.model import v0_4, v0_5

from bioengine_runner.errors import WrongOutputs
from bioengine_runner.foreign import bioimageio_core
from bioengine_runner.rundir import Boot
from bioengine_runner.tiling import memory
from bioengine_runner.tiling.geometry import InputAxis, geometry
from bioengine_runner.tiling.plan import Plan, Planner, Sizes
from bioengine_runner.tiling.run import BATCH, Run
from bioengine_runner.weights import open_weights

logger = logging.getLogger(__name__)

# Until it has been measured: what a large U-Net takes for each pixel of an image, and for each in and out.
_BYTES_PER_PIXEL = 4096.0

# The share of the free memory that one run may take, since others run beside it; and the most, however much there is.
_SHARE = 0.5
_MAX_BYTES = 8e9

# Tiles are not larger, however much memory there is: the caches of processors gain nothing by it.
_MAX_TILE = 1_500_000  # pixels

# Images of fewer pixels are run without a look at the memory.
_SMALL = 1_100_000  # pixels

# Pixels of the image that a model's memory is measured on, and what it takes at least.
_PROBE = 262_144
_MIN_BYTES_PER_PIXEL = 64.0

Arrays = Sequence[np.ndarray | None]
"""One for each input; None for an optional one that was left out."""

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
        self._manifest = manifest = package.manifest
        description = _open(package)
        self._inputs = [_member(spec) for spec in manifest.inputs]
        self._outputs = [_member(spec) for spec in manifest.outputs]
        self._geometry = geometry(manifest)
        self._planner = Planner(manifest.id, self._geometry)
        self._bytes_per_pixel: float | None = None
        self.opened = open_weights(package, description, weight_formats, boot)
        _name_inputs(self.opened.adapter, [str(id) for id, _ in self._inputs])

    def predict(self, arrays: Arrays, tile: Mapping[str, int] | None = None, on_tile: OnTile = _unheard) -> Prediction:
        """Run the model on images of any size: whole where that fits into memory, else in tiles.

        Args:
            arrays: one for each input, with the model's axes and dtypes; sizes of image and batch axes as they come. None for an
                optional input that is left out.
            tile: the size of tiles by axis, where they are wanted.
            on_tile: called before each tile.

        Returns one array for each output, with the model's output axes.

        Raises CannotTile, TileNotPossible, TilesNotPossible, TooManyTiles, WrongOutputs, StepError, and whatever the model
        raises, and `on_tile`.
        """
        most = self._most_pixels(arrays)
        while True:
            run = self._run(arrays, most, tile)
            try:
                for number, block in enumerate(run.blocks(), 1):
                    on_tile(number, len(run.plan))
                    run.put(block, self._forward(block.arrays))
                return run.result()
            except Exception as error:
                smaller = most / 4
                if not _is_out_of_memory(error) or not self._makes_more_tiles(arrays, smaller, tile, len(run.plan)):
                    raise
                logger.warning("%s: out of memory, trying smaller tiles", self._manifest.id)
                most = smaller

    def predict_together(
        self, requests: Sequence[Arrays], on_tiles: Sequence[OnTile] | None = None
    ) -> list[Prediction | BaseException]:
        """The same for several requests at a time: those of one size that fit whole go through the model in one batch.

        Pre- and post-processing is of each request alone. `on_tiles`: one for each request.
        """
        if len(requests) > 1:
            try:
                if self._batches_freely(requests):
                    return list(self._predict_as_batch(requests))
            except BaseException as error:
                # One of them, or all together: each finds out for itself.
                logger.info("%s: %d requests in one batch failed (%s)", self._manifest.id, len(requests), error)
        return [self._predicted(arrays, on_tile) for arrays, on_tile in zip(requests, on_tiles or [_unheard] * len(requests))]

    def fits_whole(self, arrays: Arrays) -> bool:
        """Whether they go through the model in one piece, as far as memory is concerned."""
        return len(self._plan(arrays, self._most_pixels(arrays), None)) == 1

    def smallest_tile(self, arrays: Arrays) -> dict[str, int]:
        """The smallest tiles that they can be cut into, by axis. Raises CannotTile where they cannot be cut."""
        return self._planner.smallest_tile(self._sizes(arrays))

    def _predicted(self, arrays: Arrays, on_tile: OnTile) -> Prediction | BaseException:
        try:
            return self.predict(arrays, on_tile=on_tile)
        except BaseException as error:  # sys.exit() in a package's code as well
            return error

    def _predict_as_batch(self, requests: Sequence[Arrays]) -> Iterator[Prediction]:
        runs = [self._run(arrays, float("inf"), None) for arrays in requests]
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
        inputs, outputs = self._geometry.inputs.values(), self._geometry.outputs.values()
        if not all(axes[0].type == "batch" and axes[0].is_free for axes in inputs):
            return False
        if not all(axes[0].type == "batch" for axes in outputs):
            return False
        if len({tuple(None if array is None else array.shape[1:] for array in arrays) for arrays in requests}) > 1:
            return False
        samples = sum(next(len(array) for array in arrays if array is not None) for arrays in requests)
        together = [None if array is None else np.broadcast_to(array[:1], (samples, *array.shape[1:])) for array in requests[0]]
        return self.fits_whole(together)

    def _run(self, arrays: Arrays, most_pixels: float, tile: Mapping[str, int] | None) -> Run:
        sample = Sample(
            # Axes are always named: bioimageio.core would map a bare array's axes by their sizes.
            members={id: Tensor(array, dims=axes) for (id, axes), array in zip(self._inputs, arrays) if array is not None},
            stat={},
            id=None,
        )
        return Run(self.opened.pipeline(), sample, self._plan(arrays, most_pixels, tile), dict(self._inputs), dict(self._outputs))

    def _forward(self, arrays: Mapping[MemberId, np.ndarray]) -> dict[MemberId, np.ndarray]:
        """The weights alone, on arrays of valid sizes. Raises WrongOutputs, and whatever they raise."""
        inputs = {id: Tensor(arrays[id], dims=axes) for id, axes in self._inputs if id in arrays}
        try:
            outputs = self.opened.adapter.forward(inputs)
        except AttributeError as error:
            if isinstance(error.obj, dict):  # bioimageio.core 0.11 looks for its shape
                raise self._wrong_outputs(
                    "give a dict, where a tensor is expected, or several in the order of the outputs"
                ) from error
            raise
        arrays = {id: np.asarray(tensor.data) for id, tensor in outputs.items() if tensor is not None}
        if missing := [f"'{id}'" for id, _ in self._outputs if id not in arrays]:
            raise self._wrong_outputs(f"give {len(arrays)} of the {len(self._outputs)} outputs, without {', '.join(missing)}")
        return arrays

    def _wrong_outputs(self, problem: str) -> WrongOutputs:
        return WrongOutputs(self._manifest.id, self.opened.weight_format, problem)

    def _plan(self, arrays: Arrays, most_pixels: float, tile: Mapping[str, int] | None) -> Plan:
        return self._planner.plan(self._sizes(arrays), most_pixels, tile)

    def _makes_more_tiles(self, arrays: Arrays, most: float, tile: Mapping[str, int] | None, than: int) -> bool:
        """Whether images can be cut into more tiles than before, where fewer pixels go through the model at once."""
        try:
            return len(self._plan(arrays, most, tile)) > than
        except RequestError:
            return False

    def _sizes(self, arrays: Arrays) -> Sizes:
        return {
            id: {str(axis): size for axis, size in zip(axes, array.shape)}
            for (id, axes), array in zip(self._inputs, arrays)
            if array is not None
        }

    def _most_pixels(self, arrays: Arrays) -> float:
        """Samples times pixels that may go through the model at once."""
        inputs = zip(arrays, self._geometry.inputs.values())
        given = max(_pixels(array, axes) for array, axes in inputs if array is not None)
        if given <= _SMALL:
            return float("inf")
        if self._bytes_per_pixel is None:
            self._bytes_per_pixel = self._measured()
        budget = min(memory.available() * _SHARE, _MAX_BYTES) / self._bytes_per_pixel
        return given if given <= budget else min(budget, _MAX_TILE)

    def _measured(self) -> float:
        """Bytes that a pixel of an image takes on its way through the weights, tried out on zeros."""
        arrays = {
            id: np.zeros([_probe_size(axes, axis, self._geometry.inputs) for axis in axes], spec.dtype)
            for (id, axes), spec in zip(self._geometry.inputs.items(), self._manifest.inputs)
        }
        pixels = max(_pixels(array, axes) for array, axes in zip(arrays.values(), self._geometry.inputs.values()))
        try:
            # The weights take what the preprocessing makes of an image: integers become floats.
            block = next(self._run(list(arrays.values()), float("inf"), None).blocks())
            with memory.watched() as peak:
                self._forward(block.arrays)
        except Exception as error:
            logger.warning("%s: its memory could not be measured (%s)", self._manifest.id, error)
            return _BYTES_PER_PIXEL
        measured = max(peak.bytes / pixels, _MIN_BYTES_PER_PIXEL) if peak.bytes else _BYTES_PER_PIXEL
        logger.info("%s: takes %.0f bytes of memory for a pixel", self._manifest.id, measured)
        return measured


def _member(spec: TensorDescription) -> tuple[MemberId, list[AxisId]]:
    """A tensor and its axes as bioimageio.core calls them."""
    return MemberId(spec.id), [AxisId(axis.id) for axis in spec.axes]


def _name_inputs(adapter: bioimageio_core.ModelAdapter, ids: list[str]) -> None:
    """Have ONNX weights get each input by its own name, where they have these names.

    bioimageio.core 0.11 knows those alone that have to be given, and gives them what comes first: an optional input that has a
    value of its own in the weights would be dropped without a word.
    """
    _, session = bioimageio_core.framework_model(adapter)
    if hasattr(session, "get_overridable_initializers"):
        names = {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}
        if names.issuperset(ids):
            from bioengine_runner.foreign import bioimageio_core_onnx  # brings ONNX Runtime, which others do without

            bioimageio_core_onnx.name_inputs(adapter, ids)


def _pixels(array: np.ndarray, axes: Sequence[InputAxis]) -> int:
    """Samples times pixels of an image."""
    return math.prod(size for size, axis in zip(array.shape, axes) if axis.type in (*IMAGE_AXES, BATCH))


def _probe_size(axes: Sequence[InputAxis], axis: InputAxis, inputs: Mapping[str, Sequence[InputAxis]]) -> int:
    """The size of an axis of an image of about `_PROBE` pixels."""
    if axis.follows is not None:
        source = next(other for other in inputs[axis.follows.tensor] if other.id == axis.follows.axis)
        return axis.follows.of(_probe_size(inputs[axis.follows.tensor], source, inputs))
    if axis.type not in IMAGE_AXES:
        return axis.min
    dimensions = sum(other.type in IMAGE_AXES for other in axes)
    return axis.valid(round(_PROBE ** (1 / dimensions)))


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(word in text for word in ("out of memory", "failed to allocate", "bad_alloc"))


def _open(package: Package) -> v0_4.ModelDescr | v0_5.ModelDescr:
    # A folder of our own store, never anything that a client named; its hash is that of its import.
    description: Any = load_description(package.folder / RDF, perform_io_checks=False)
    if isinstance(description, InvalidDescr) or not isinstance(description, (v0_4.ModelDescr, v0_5.ModelDescr)):
        raise PackageUnreadable(package.id, "its rdf.yaml does not describe a model any more")
    return description
