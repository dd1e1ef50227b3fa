"""NaN and infinity in images: a model passes them on, or spoils everything with them, and no error says so.

Looked for in one pass over the data, a sum, which is NaN or infinite where any value is: 0.2 ms for 4 MB, 4 ms for 67 MB.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bioengine_contract.tensors.blocks import blocks


def warnings_of_inputs(arrays: Mapping[str, np.ndarray | None]) -> list[str]:
    """A sentence for each input that has values that are not finite."""
    found = ((name, _what(array)) for name, array in arrays.items() if array is not None)
    return [f"Input '{name}' has {what}. The outputs may be NaN, there or everywhere." for name, what in found if what]


def warnings_of_outputs(arrays: Mapping[str, np.ndarray], from_inputs: bool) -> list[str]:
    """A sentence for each output that has values that are not finite.

    Args:
        arrays: by name.
        from_inputs: whether an input has such values.
    """
    why = "" if from_inputs else ", though the inputs have none: the model made them"
    found = ((name, _what(array)) for name, array in arrays.items())
    return [f"Output '{name}' has {what}{why}." for name, what in found if what]


def is_finite(array: np.ndarray) -> bool:
    """Whether every value is a finite number."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum(dtype=np.result_type(array.dtype, np.float32))):
            return True
        return all(np.isfinite(block).all() for (block,) in blocks(array))  # a sum may be too large without


def _what(array: np.ndarray) -> str:
    """How many values are not finite; nothing where all are."""
    if is_finite(array):
        return ""
    nans = infinities = 0
    for (block,) in blocks(array):
        nans += int(np.count_nonzero(np.isnan(block)))
        infinities += int(np.count_nonzero(np.isinf(block)))
    parts = [f"{name} in {count}" for count, name in ((nans, "NaN"), (infinities, "infinity")) if count]
    return f"{' and '.join(parts)} of {array.size} pixels"
