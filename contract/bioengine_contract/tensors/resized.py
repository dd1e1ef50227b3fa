"""Warn where a result is not exact because the image was padded, or cut into tiles, to sizes that the model takes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.following import Follows, output_follows
from bioengine_contract.manifest import Axis, Manifest, Tensor

_Sizes = Mapping[tuple[str, str], int]
"""Of the image, by input and axis."""


def warnings_of_sizes(
    manifest: Manifest, shapes: Sequence[Sequence[int] | None], tile: Mapping[str, int] | None, outputs: Container[str]
) -> list[str]:
    """A sentence for each output that padding makes inexact, and one about tiles of a model that needs its whole image.

    Args:
        manifest: the model.
        shapes: of its inputs, with the model's axes; None for an optional input that was left out.
        tile: the size of tiles by axis, if the client wants some.
        outputs: the names of the outputs that the client wants.
    """
    axes = {
        (spec.id, axis.id): (axis, size)
        for spec, shape in zip(manifest.inputs, shapes)
        if shape is not None
        for axis, size in zip(spec.axes, shape)
        if axis.type in IMAGE_AXES and axis.reference is None
    }
    sizes = {key: size for key, (_, size) in axes.items()}
    padded = {key: valid for key, (axis, size) in axes.items() if (valid := _padded(axis, size)) > size}
    warnings = []
    for spec in manifest.outputs:
        if spec.id in outputs:
            following = [(axis, follows) for axis in spec.axes if (follows := output_follows(axis, manifest.inputs)) is not None]
            if padded and not any((follows.tensor, follows.axis) in padded for _, follows in following):
                warnings.append(_of_padding(spec, sizes, padded))
            warnings += [sentence for axis, follows in following if (sentence := _of_scale(spec, axis, follows, sizes))]
    is_cut = any(_is_cut(axis, size, tile or {}) for axis, size in axes.values())
    if is_cut and manifest.halo is not None and not manifest.halo.is_exact:
        warnings.append(
            "The image was cut into tiles, because the model takes images of one size, and each pixel of the result depends on "
            f"most of its tile. In tiles that lie elsewhere, results differ: by up to {manifest.halo.difference:.0%} of their "
            "range for the model's own test image."
        )
    return warnings


def _padded(axis: Axis, size: int) -> int:
    """The size to which an image is padded along an axis; `size` itself if it is cut or stays as it is."""
    if size <= axis.min or axis.step == 0:
        return max(size, axis.min)
    return axis.min - (axis.min - size) // axis.step * axis.step


def _is_cut(axis: Axis, size: int, tile: Mapping[str, int]) -> bool:
    """Whether an image is certainly cut along an axis. One of a free size may be cut as well, if memory is short."""
    return size > tile.get(axis.id, size) or (axis.step == 0 and size > axis.min)


def _of_padding(output: Tensor, sizes: _Sizes, padded: _Sizes) -> str:
    """About an output that has none of the padded axes, such as a score: it cannot be cropped."""
    grown = ", ".join(f"{key[1]} from {sizes[key]} to {valid}" for key, valid in padded.items())
    return f"Output '{output.id}' was computed from a padded image ({grown} pixels): the mirrored pixels at its end count, too."


def _of_scale(output: Tensor, axis: Axis, follows: Follows, sizes: _Sizes) -> str:
    """About an output of fewer pixels than the image, none of which is for the image's last ones; empty if there are none."""
    size = sizes.get((follows.tensor, follows.axis))
    if size is None or (exact := size * follows.scale).denominator == 1:
        return ""
    return (
        f"Output '{output.id}' has {follows.of(size)} pixels along {axis.id}: {size} pixels at its scale of {follows.scale} are "
        f"{float(exact + follows.offset):g}, and the part of a pixel at the end is left out."
    )
