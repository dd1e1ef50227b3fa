"""Warn about NaN and infinity in images: a model passes them on, or turns all of its output into NaN, without an error.

They are detected in one pass over the data, by a sum, which is NaN or infinite if any value is: 0.2 ms for 4 MB, 4 ms for 67 MB.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bioengine_contract.tensors.blocks import blocks


def warnings_of_inputs(arrays: Mapping[str, np.ndarray | None]) -> list[str]:
    """A sentence for each input that contains NaN or infinity."""
    found = ((name, _what(array)) for name, array in arrays.items() if array is not None)
    return [f"Input '{name}' has {what}. The outputs may be NaN at these pixels, or everywhere." for name, what in found if what]


def warnings_of_outputs(arrays: Mapping[str, np.ndarray], from_inputs: bool) -> list[str]:
    """A sentence for each output that contains NaN or infinity.

    Args:
        arrays: the outputs, by name.
        from_inputs: whether an input contains such values too.
    """
    why = "" if from_inputs else ", although the inputs have none: the model produced them"
    found = ((name, _what(array)) for name, array in arrays.items())
    return [f"Output '{name}' has {what}{why}." for name, what in found if what]


def is_finite(array: np.ndarray) -> bool:
    """Whether every value is a finite number."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum(dtype=np.result_type(array.dtype, np.float32))):
            return True
        return all(np.isfinite(block).all() for (block,) in blocks(array))  # the sum of finite values can overflow


def _what(array: np.ndarray) -> str:
    """How many values are NaN or infinite, as text; empty if all are finite."""
    if is_finite(array):
        return ""
    nans = infinities = 0
    for (block,) in blocks(array):
        nans += int(np.count_nonzero(np.isnan(block)))
        infinities += int(np.count_nonzero(np.isinf(block)))
    parts = [f"{name} in {count}" for count, name in ((nans, "NaN"), (infinities, "infinity")) if count]
    return f"{' and '.join(parts)} of {array.size} pixels"
