"""Pre- and post-processing of bioimageio.core, step by step, so that an error can name the step that failed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from bioimageio.core import PredictionPipeline, Sample

from bioengine_runner.foreign.bioimageio_core import Step, leave_out_statistics, steps_of, takes_statistics
from bioengine_runner.reasons import StepError, in_short


class Processing:
    """The processing steps of one request."""

    def __init__(self, pipeline: PredictionPipeline, inputs: Iterable[Any]) -> None:
        """`inputs`: the ids of all inputs of the model; a request may leave out optional ones."""
        self._inputs = {str(id) for id in inputs}
        self._steps = steps_of(pipeline)

    def before_whole(self, sample: Sample) -> None:
        """Apply steps to `sample` in place, as the other three methods do. Raises StepError."""
        given = {str(id) for id in sample.members}
        for step in self._steps.before_whole:
            if takes_statistics(step):
                self._check_statistics()
                leave_out_statistics(step, self._inputs - given)
        _apply("pre-processing", self._steps.before_whole, sample)

    def before_tile(self, sample: Sample) -> None:
        _apply("pre-processing", self._steps.before_tile, sample)

    def after_tile(self, sample: Sample) -> None:
        _apply("post-processing", self._steps.after_tile, sample)

    def after_whole(self, sample: Sample) -> None:
        """Steps of outputs that `sample` lacks, because they were not wanted, are left out."""
        steps = [step for step in self._steps.after_whole if getattr(step, "output", None) in (None, *sample.members)]
        _apply("post-processing", steps, sample)

    def _check_statistics(self) -> None:
        """Raises StepError for a step that needs statistics of an output: statistics are computed before the model runs."""
        for step in (*self._steps.after_tile, *self._steps.after_whole):
            for measure in step.required_measures:
                if str(measure.member_id) not in self._inputs:
                    reason = f"it needs statistics of the output '{measure.member_id}', but only those of inputs are available"
                    raise StepError("post-processing", _name(step), _tensor(step), reason)


def _apply(kind: str, steps: Iterable[Step], sample: Sample) -> None:
    for step in steps:
        try:
            step(sample)
        except MemoryError:  # smaller tiles may work
            raise
        except Exception as error:
            raise _failure(kind, step, error) from error


def _failure(kind: str, step: Step, error: Exception) -> StepError:
    return StepError(kind, _name(step), _tensor(step), in_short(error))


def _name(step: Step) -> str:
    """ScaleMeanVariance -> scale_mean_variance."""
    return re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", type(step).__name__).lower().removesuffix("_processing")


def _tensor(step: Step) -> str:
    return str(getattr(step, "output", None) or getattr(step, "input", None) or "the whole")
