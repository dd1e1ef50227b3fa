"""Which sizes of a tensor converted weights leave free: those that the description leaves free."""

from __future__ import annotations

from bioengine_contract.manifest import Tensor


def free_axes(spec: Tensor) -> dict[int, str]:
    """The axes of a tensor whose size is not fixed, by their numbers, with names for ONNX."""
    return {
        number: f"{spec.id}_{axis.id}" for number, axis in enumerate(spec.axes) if axis.step > 0 or axis.reference is not None
    }
