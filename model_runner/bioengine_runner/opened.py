"""Weights in memory, ready to run: arrays in, arrays out, without pre- and post-processing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from bioimageio.core import PredictionPipeline, Tensor, create_prediction_pipeline
from bioimageio.core.common import MemberId
from bioimageio.core.proc_ops import CustomProcessing
from bioimageio.spec.model import v0_4, v0_5

from bioengine_runner.errors import WrongOutputs
from bioengine_runner.foreign import bioimageio_core
from bioengine_runner.foreign.bioimageio_core import ModelAdapter
from bioengine_runner.sessions_by_shape import SessionsByShape, Shape
from bioengine_runner.signature import Signature
from bioengine_runner.tiling.memory import DeviceMemory

# Batches of at most so many pixels are filled up: computing the additional pixels takes less time than a new plan, 33 ms.
_MAX_PADDED = 4_000_000

Blocks = Mapping[MemberId, np.ndarray]
"""Preprocessed arrays by input, of sizes that the weights accept."""


class Opened:
    """A package's weights on a device.

    `device`: where they compute according to the framework itself, `cpu` or `cuda:0`. `notes`: why these weights and this device.
    """

    def __init__(
        self,
        description: v0_4.ModelDescr | v0_5.ModelDescr,
        adapter: ModelAdapter,
        weight_format: str,
        signature: Signature,
        memory: DeviceMemory,
    ) -> None:
        """`memory`: that of the device. Code of the package may raise anything here."""
        self.description = description
        self.weight_format = weight_format
        self.signature = signature
        self.memory = memory
        self.notes: list[str] = []
        self.device = active_device(adapter)
        self._adapter = adapter
        _, self._model = bioimageio_core.framework_model(adapter)
        self.pipeline()
        if self.is_onnx:
            _name_inputs(adapter, self._model, [str(id) for id, _ in signature.inputs])

    @property
    def details(self) -> str:
        """How they compute and why, for people: a fact on each line."""
        own = ", ".join(" and ".join("x".join(map(str, array)) for array in shape) for shape in self.own_shapes)
        return "\n".join([self._framework, *self.notes, *([f"sessions of their own have the shapes {own}"] if own else [])])

    @property
    def own_shapes(self) -> list[Shape]:
        """The shapes of images that have an ONNX Runtime session of their own."""
        return self._model.shapes if isinstance(self._model, SessionsByShape) else []

    @property
    def _framework(self) -> str:
        if self.is_onnx:
            import onnxruntime

            return f"ONNX Runtime {onnxruntime.__version__}, {self._model.get_providers()[0]}"
        import torch

        return f"torch {torch.__version__}"

    @property
    def is_onnx(self) -> bool:
        return hasattr(self._model, "get_providers")

    @property
    def is_on_card(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def framework_model(self) -> Any:
        """An ONNX Runtime session, or a torch module."""
        return self._model

    def pipeline(self) -> PredictionPipeline:
        """A pipeline for one request, made in a fraction of a millisecond.

        bioimageio.core 0.11 gathers statistics of datasets in it: in one for all, they would be of other users' images, too.
        """
        pipeline = create_prediction_pipeline(self.description, model_adapter=self._adapter)
        _give_code_whole_images(pipeline)
        return pipeline

    def forward(self, arrays: Blocks) -> dict[MemberId, np.ndarray]:
        """Run the weights. Raises WrongOutputs, and whatever the framework raises."""
        samples = len(next(iter(arrays.values())))
        padded = self.padded_samples(samples, self.signature.pixels([arrays.get(id) for id, _ in self.signature.inputs]))
        if padded > samples:
            arrays = {id: _with_samples(array, padded) for id, array in arrays.items()}
            return {id: output[:samples] for id, output in self._forward(arrays).items()}
        return self._forward(arrays)

    def padded_samples(self, samples: int, pixels: int) -> int:
        """The size to which a batch is filled up. On a card, ONNX Runtime makes a plan for each size, so only few sizes are used.

        Args:
            samples: the number of samples in the batch.
            pixels: the number of pixels of all samples together.
        """
        if not (self.is_onnx and self.is_on_card and self.signature.has_free_batch):
            return samples
        padded = 1 << (samples - 1).bit_length()
        return padded if pixels / samples * padded <= _MAX_PADDED else samples

    def give_back(self, arrays: Blocks) -> None:
        """Return the memory that the framework keeps for images. `arrays`: a small image; some frameworks have to run one."""
        if self.is_onnx:
            from bioengine_runner import onnx_sessions
            from bioengine_runner.foreign import bioimageio_core_onnx

            feed = bioimageio_core_onnx.feed(self._adapter, [arrays.get(id) for id, _ in self.signature.inputs])
            onnx_sessions.give_back(self._model, feed, self.device)
        elif self.is_on_card:
            import torch

            torch.cuda.empty_cache()

    def keep_less(self) -> None:
        """Hold less memory of the card from now on, at the price of speed."""
        if hasattr(self._model, "keep_one"):
            self._model.keep_one()

    def close(self) -> None:
        """Release the weights. They cannot be run afterwards."""
        self._model = None
        self._adapter.unload()

    def _forward(self, arrays: Blocks) -> dict[MemberId, np.ndarray]:
        inputs = {id: Tensor(arrays[id], dims=axes) for id, axes in self.signature.inputs if id in arrays}
        try:
            tensors = self._adapter.forward(inputs)
        except AttributeError as error:
            if isinstance(error.obj, dict):  # bioimageio.core 0.11 looks for its shape
                raise self._wrong_outputs(
                    "give a dict, where a tensor is expected, or several in the order of the outputs"
                ) from error
            raise
        outputs = {id: np.asarray(tensor.data) for id, tensor in tensors.items() if tensor is not None}
        if missing := [f"'{id}'" for id, _ in self.signature.outputs if id not in outputs]:
            count = len(self.signature.outputs)
            raise self._wrong_outputs(f"give {len(outputs)} of the {count} outputs, without {', '.join(missing)}")
        return outputs

    def _wrong_outputs(self, problem: str) -> WrongOutputs:
        return WrongOutputs(self.signature.model_id, self.weight_format, problem)


def active_device(adapter: ModelAdapter) -> str:
    """Where an adapter of bioimageio.core 0.11 computes, as its framework says: `cpu` or `cuda:0`."""
    device, model = bioimageio_core.framework_model(adapter)
    if hasattr(model, "get_providers"):
        # An ONNX Runtime session: its providers in their order, and without those that did not start.
        return "cuda:0" if model.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return str(device if tensor is None else tensor.device)


def _name_inputs(adapter: ModelAdapter, session: Any, ids: list[str]) -> None:
    """Have ONNX weights get each input by its own name, where they have these names.

    bioimageio.core 0.11 knows those alone that have to be given, and gives them what comes first: an optional input that has a
    value of its own in the weights would be dropped without a word.
    """
    names = {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}
    if names.issuperset(ids):
        from bioengine_runner.foreign import bioimageio_core_onnx  # brings ONNX Runtime, which others do without

        bioimageio_core_onnx.name_inputs(adapter, ids)


def _with_samples(array: np.ndarray, samples: int) -> np.ndarray:
    """A batch, filled up with zeros."""
    return np.concatenate([array, np.zeros((samples - len(array), *array.shape[1:]), array.dtype)])


def _give_code_whole_images(pipeline: PredictionPipeline) -> None:
    """Have custom processing run on whole images, whatever the tiles of the others are: it may need all of one.

    bioimageio.core 0.11 takes it for a step that can be done tile by tile.
    """
    steps = bioimageio_core.steps_of(pipeline)
    before, after = steps.before_tile, steps.after_tile
    end = max((number for number, step in enumerate(before, 1) if isinstance(step, CustomProcessing)), default=0)
    start = next((number for number, step in enumerate(after) if isinstance(step, CustomProcessing)), len(after))
    whole = bioimageio_core.Steps(
        before_whole=[*steps.before_whole, *before[:end]],
        before_tile=before[end:],
        after_tile=after[:start],
        after_whole=[*after[start:], *steps.after_whole],
    )
    bioimageio_core.set_steps(pipeline, whole)
