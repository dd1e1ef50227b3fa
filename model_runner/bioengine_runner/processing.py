"""Pre- and post-processing of bioimageio.core, step by step, so that a step that fails is named.

bioimageio.core 0.11 has no public name for the steps, nor for the halves of them: those up to the last that needs the whole
image, and those that are done tile by tile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bioimageio.core import PredictionPipeline, Sample

from bioengine_runner.reasons import StepError, in_short


class Processing:
    """The steps of one request's pipeline."""

    def __init__(self, pipeline: PredictionPipeline, inputs: Iterable[Any]) -> None:
        """`inputs`: the ids of all inputs of the model, of which a request may leave out optional ones."""
        steps: Any = pipeline
        self._inputs = {str(id) for id in inputs}
        self._before_whole: list[Any] = steps._samplewise_preprocessing
        self._before_tile: list[Any] = steps._blockwise_preprocessing
        self._after_tile: list[Any] = steps._blockwise_postprocessing
        self._after_whole: list[Any] = steps._samplewise_postprocessing

    def before_whole(self, sample: Sample) -> None:
        """Change `sample`, as the other three do too. Raises StepError."""
        given = {str(id) for id in sample.members}
        for step in self._before_whole:
            if (calculator := getattr(step, "stats_calculator", None)) is not None:
                self._check_statistics()
                _leave_out_statistics(calculator, self._inputs - given)
        _apply("pre-processing", self._before_whole, sample)

    def before_tile(self, sample: Sample) -> None:
        _apply("pre-processing", self._before_tile, sample)

    def after_tile(self, sample: Sample) -> None:
        _apply("post-processing", self._after_tile, sample)

    def after_whole(self, sample: Sample) -> None:
        _apply("post-processing", self._after_whole, sample)

    def _check_statistics(self) -> None:
        """Raises StepError for a step that needs statistics of an output: all are taken before the model has run."""
        for step in (*self._after_tile, *self._after_whole):
            for measure in step.required_measures:
                if str(measure.member_id) not in self._inputs:
                    reason = f"it needs statistics of the output '{measure.member_id}', and gets those of inputs only"
                    raise StepError("post-processing", _name(step), _tensor(step), reason)


def _apply(kind: str, steps: Iterable[Any], sample: Sample) -> None:
    for step in steps:
        try:
            step(sample)
        except MemoryError:  # smaller tiles may do
            raise
        except Exception as error:
            raise _failure(kind, step, error) from error


def _failure(kind: str, step: Any, error: Exception) -> StepError:
    return StepError(kind, _name(step), _tensor(step), in_short(error))


def _name(step: Any) -> str:
    """ScaleMeanVariance -> scale_mean_variance."""
    return re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", type(step).__name__).lower().removesuffix("_processing")


def _tensor(step: Any) -> str:
    return str(getattr(step, "output", None) or getattr(step, "input", None) or "the whole")


def _leave_out_statistics(calculator: Any, left_out: set[str]) -> None:
    """Have no statistics taken of optional inputs that were left out, which bioimageio.core 0.11 does not expect."""
    for kind in ("sample_calculators", "dataset_calculators"):
        kept = [each for each in getattr(calculator, kind) if _member(each) not in left_out]
        setattr(calculator, kind, kept)


def _member(calculator: Any) -> str:
    return str(getattr(calculator, "_member_id", None) or getattr(calculator, "tensor_name", ""))
