"""bioimageio.core's private names: the steps of a pipeline, what they take statistics of, and the framework behind an adapter.

bioimageio.core 0.11 has no public name for any of these.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from bioimageio.core import PredictionPipeline
from bioimageio.core._model_adapter import LocalModelAdapter, ModelAdapter
from bioimageio.core._op_base import BlockwiseOperator, SamplewiseOperator
from bioimageio.core.proc_ops import UpdateStats
from bioimageio.core.stat_calculators import (
    MeanCalculator,
    MeanVarStdCalculator,
    NaiveSampleMeasureCalculator,
    SampleQuantilesCalculator,
    StatsCalculator,
)

from bioengine_runner.library import require

__all__ = [
    "LIBRARY", "ModelAdapter", "Step", "Steps", "check", "framework_model", "leave_out_statistics", "set_steps", "steps_of",
    "takes_statistics",
]  # fmt: skip

LIBRARY, VERSION = "bioimageio.core", "0.11.0"
PARTS = {
    "LocalModelAdapter.load": (LocalModelAdapter.load, "8b16137593a8"),
    "LocalModelAdapter.forward": (LocalModelAdapter.forward, "f804fc33559e"),
    "PredictionPipeline.__init__": (PredictionPipeline.__init__, "07e2e1868fbe"),
    "UpdateStats.__call__": (UpdateStats.__call__, "6abe9816461f"),
    "StatsCalculator.__init__": (StatsCalculator.__init__, "8dffec5bc809"),
    "MeanCalculator.__init__": (MeanCalculator.__init__, "9a078b68d43b"),
    "MeanVarStdCalculator.__init__": (MeanVarStdCalculator.__init__, "0c5a8609eebc"),
    "NaiveSampleMeasureCalculator.__init__": (NaiveSampleMeasureCalculator.__init__, "24d4237f3218"),
    "SampleQuantilesCalculator.__init__": (SampleQuantilesCalculator.__init__, "aa505bd5efc0"),
}


@functools.cache
def check() -> None:
    """Raises LibraryChanged where bioimageio.core is not the one that this module knows."""
    require(LIBRARY, VERSION, PARTS)


Step = SamplewiseOperator | BlockwiseOperator
"""A step of pre- or post-processing: called with a sample, which it changes; has `required_measures`."""


@dataclass
class Steps:
    """The steps of a pipeline, in their order: up to the last that needs the whole image, and tile by tile; and back."""

    before_whole: list[Step]
    before_tile: list[BlockwiseOperator]
    after_tile: list[BlockwiseOperator]
    after_whole: list[Step]


def steps_of(pipeline: PredictionPipeline) -> Steps:
    return Steps(
        pipeline._samplewise_preprocessing,
        pipeline._blockwise_preprocessing,
        pipeline._blockwise_postprocessing,
        pipeline._samplewise_postprocessing,
    )


def set_steps(pipeline: PredictionPipeline, steps: Steps) -> None:
    pipeline._samplewise_preprocessing = steps.before_whole
    pipeline._blockwise_preprocessing = steps.before_tile
    pipeline._blockwise_postprocessing = steps.after_tile
    pipeline._samplewise_postprocessing = steps.after_whole


def takes_statistics(step: Any) -> bool:
    return getattr(step, "stats_calculator", None) is not None


def leave_out_statistics(step: Any, left_out: set[str]) -> None:
    """Have a step take no statistics of some inputs: optional ones that were left out, which the library does not expect."""
    calculator = step.stats_calculator
    for kind in ("sample_calculators", "dataset_calculators"):
        kept = [each for each in getattr(calculator, kind) if _member(each) not in left_out]
        setattr(calculator, kind, kept)


def _member(calculator: Any) -> str:
    return str(getattr(calculator, "_member_id", None) or getattr(calculator, "tensor_name", ""))


def framework_model(adapter: ModelAdapter) -> tuple[Any, Any]:
    """The device as it was named, and the framework's own model: an ONNX Runtime session, or a torch module."""
    assert isinstance(adapter, LocalModelAdapter)
    device, model = adapter._model_queue.queue[-1]
    return device, model
