"""From the arrays in a request to the arrays that a model needs."""

from __future__ import annotations

import numpy as np
import pytest
from bioengine_contract.errors import BadRequest
from bioengine_contract.manifest import Axis, Manifest, SizeReference, Tensor
from bioengine_contract.tensors.errors import BadAxes, BadTile, LossyCast, NotAnArray, WrongAxes, WrongInputCount, WrongSize
from bioengine_contract.tensors.fit import check_shapes, fit_inputs, fit_tile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.unit.contract.packages import manifest

BATCH, CHANNEL = Axis("batch", "batch", 1, 1), Axis("channel", "channel", 2, 0)


def spec(dtype: str = "float32", **more: int) -> Tensor:
    return Tensor("image", dtype, (BATCH, CHANNEL, Axis("y", "space", 8, 4), Axis("x", "space", 8, 4)))


def model(*specs: Tensor) -> Manifest:
    return manifest(*specs)


def image(dtype: str = "float32", shape: tuple[int, ...] = (1, 2, 8, 12)) -> np.ndarray:
    return np.zeros(shape, dtype)


@given(npst.arrays(npst.integer_dtypes() | npst.unsigned_integer_dtypes(), (1, 2, 8, 8)))
def test_integers_become_float32(array: np.ndarray) -> None:
    (fitted,) = fit_inputs(model(spec()), [array])
    assert fitted is not None and fitted.dtype == np.float32
    np.testing.assert_array_equal(fitted, array.astype(np.float32))


@given(
    npst.arrays(st.sampled_from(["int64", "int16", "uint64", "float32", "float64", "bool"]), (1, 2, 8, 8)),
    st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]),
)
def test_casts_keep_every_value_or_are_refused(array: np.ndarray, wanted: str) -> None:
    try:
        (fitted,) = fit_inputs(model(spec(wanted)), [array])
    except LossyCast as error:
        assert array.dtype.name in str(error) and wanted in str(error)
        return
    assert fitted.dtype == wanted
    if wanted != "float32":  # the one loss that is allowed, and said
        for given_value, value in zip(array.flat, fitted.flat):
            assert value == given_value or (value != value and given_value != given_value)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.full((1, 2, 8, 8), -1, np.int8), "uint8"),
        (np.full((1, 2, 8, 8), -1, np.int64), "uint64"),
        (np.full((1, 2, 8, 8), 256, np.int64), "uint8"),
        (np.full((1, 2, 8, 8), 0.5, np.float32), "uint8"),
        (np.full((1, 2, 8, 8), np.nan, np.float32), "int32"),
        (np.full((1, 2, 8, 8), 1e39, np.float64), "float32"),
        (np.full((1, 2, 8, 8), 2, np.uint8), "bool"),
    ],
)
def test_lossy_casts_are_refused(array: np.ndarray, wanted: str) -> None:
    with pytest.raises(LossyCast, match=rf"{array.dtype.name}.*{wanted}"):
        fit_inputs(model(spec(wanted)), [array])


@given(st.lists(st.integers(1, 40), min_size=0, max_size=6).map(tuple))
def test_every_shape_fits_or_is_refused_with_what_the_model_takes(shape: tuple[int, ...]) -> None:
    """Batches and images of any size fit, also those that have to be padded or cut."""
    if len(shape) == 4 and shape[1] == 2:
        check_shapes(model(spec()), shapes := [shape])
        assert shapes == [shape]
        return
    with pytest.raises((WrongAxes, WrongSize)) as refusal:
        check_shapes(model(spec()), [shape])
    text = str(refusal.value)
    assert str(shape) in text and "y: 8 + n*4" in text and "axes bcyx" in text and "float32" in text
    example = eval(text.partition("This works: inputs=")[2].removesuffix("."), {"np": np})
    fit_inputs(model(spec()), example[0]["inputs"])


def test_a_size_that_follows_another_input() -> None:
    half = Axis("y", "space", 1, 1, SizeReference("image", "y", 0.5, 1))
    mask = Tensor("mask", "float32", (BATCH, half))
    check_shapes(model(spec(), mask), [(1, 2, 8, 8), (1, 5)])
    with pytest.raises(WrongSize, match="y is 4, it must be 5 to match 'image'"):
        check_shapes(model(spec(), mask), [(1, 2, 8, 8), (1, 4)])


def test_a_list_of_samples_adds_the_batch_axis() -> None:
    samples = [np.full((2, 8, 8), value, np.float32) for value in (1, 2, 3)]
    (fitted,) = fit_inputs(model(spec()), [samples])
    assert fitted is not None and fitted.shape == (3, 2, 8, 8) and fitted[1, 0, 0, 0] == 2


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (image(), BadRequest),
        ([], WrongInputCount),
        ([image(), image()], WrongInputCount),
        ([None], NotAnArray),
        ([5], NotAnArray),
        ([[]], NotAnArray),
        ([[1, 2]], NotAnArray),
        ([image(shape=(1, 2, 0, 8))], NotAnArray),
        ([image("complex64")], NotAnArray),
        ([[image(shape=(2, 8, 8)), image(shape=(2, 8, 12))]], NotAnArray),
        ([[image()]], WrongAxes),
        ([image(shape=(8, 8))], WrongAxes),
        ([image(shape=(1, 1, 2, 8, 8))], WrongAxes),
    ],
)
def test_what_is_refused(inputs: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        fit_inputs(model(spec()), inputs)


GREY = Tensor("image", "float32", (BATCH, Axis("channel", "channel", 1, 0), Axis("y", "space", 8, 4), Axis("x", "space", 8, 4)))


@given(st.permutations("bcyx"), st.integers(0, 4))
def test_named_axes_are_moved_to_their_places(order: list[str], left_out: int) -> None:
    """Whatever the order, each value is where it belongs; a batch or channel of size 1 may be left out."""
    sizes = {"b": 3, "c": 2, "y": 8, "x": 12}
    whole = np.random.default_rng(0).random([sizes[axis] for axis in "bcyx"]).astype(np.float32)
    given_axes = [axis for axis in order if axis != "b"] if left_out == 0 else order
    array = whole[0] if left_out == 0 else whole
    source = "cyx" if left_out == 0 else "bcyx"
    (fitted,) = fit_inputs(model(spec()), [array.transpose([source.index(axis) for axis in given_axes])], "".join(given_axes))
    assert fitted is not None
    np.testing.assert_array_equal(fitted, whole[:1] if left_out == 0 else whole)


@pytest.mark.parametrize(
    ("shape", "axes", "wanted"),
    [
        ((8, 12), "yx", (1, 1, 8, 12)),
        ((8, 12), None, (1, 1, 8, 12)),
        ((1, 8, 12), None, (1, 1, 8, 12)),
        ((1, 1, 8, 12), None, (1, 1, 8, 12)),
        ((8, 12, 1), "yxc", (1, 1, 8, 12)),
        ((12, 8), "xy", (1, 1, 8, 12)),
        ((1, 8, 12), "zyx", (1, 1, 8, 12)),
        ((8, 12), ["yx"], (1, 1, 8, 12)),
        ((8, 12), [None], (1, 1, 8, 12)),
        ((4, 8, 12), "byx", (4, 1, 8, 12)),
    ],
)
def test_axes_that_are_understood(shape: tuple[int, ...], axes: object, wanted: tuple[int, ...]) -> None:
    (fitted,) = fit_inputs(model(GREY), [image(shape=shape)], axes)
    assert fitted.shape == wanted


@pytest.mark.parametrize(
    ("shape", "axes", "problem"),
    [
        ((5, 8, 12), "zyx", "5 along 'z', an axis that the model does not have"),
        ((8, 12), "zyx", "axes 'zyx' names 3 axes"),
        ((8, 8), "yy", "name one axis twice"),
        ((8, 12), "cx", "also needs y: 8 [+] n[*]4"),
        ((8, 12), 5, "`axes` is 5"),
        ((8, 12), ["yx", "yx"], "one for each input"),
        ((2, 2, 8, 12), None, "channel is 2, it must be 1"),
        ((8,), None, "It has 1 axes"),
        ((5, 8, 12), None, "It could be 5 samples, or something else"),
        ((8, 12, 3), None, "give its axes as `axes`"),
    ],
)
def test_axes_that_are_refused(shape: tuple[int, ...], axes: object, problem: str) -> None:
    with pytest.raises((BadAxes, WrongAxes, WrongSize), match=problem) as refusal:
        fit_inputs(model(GREY), [image(shape=shape)], axes)
    assert "The model takes 'image': float32, axes bcyx" in str(refusal.value)


def test_tiles() -> None:
    assert fit_tile(model(GREY), None) is None
    assert fit_tile(model(GREY), 64) == {"y": 64, "x": 64}
    assert fit_tile(model(GREY), {"y": 64}) == {"y": 64}
    for bad in (0, -8, "64", 6.5, {"z": 64}, {"y": "64"}, [64], {"channel": 1}):
        with pytest.raises(BadTile, match="y, x"):
            fit_tile(model(GREY), bad)


@pytest.mark.parametrize(("scale", "of"), [(0.3 / 0.1, 10), (0.7 / 0.1, 10), (1.2 / 0.4, 20), (1 / 49, 49)])
def test_a_size_that_follows_another_is_that_of_the_exact_scale(scale: float, of: int) -> None:
    """The quotient of two pixel sizes is 2.9999999999999996 as a float."""
    wanted = round(of * scale)
    second = Tensor("second", "float32", (Axis("x", "space", 1, 1, SizeReference("first", "x", scale, 0)),))
    both = model(Tensor("first", "float32", (Axis("x", "space", of, 1),)), second)
    assert [array is not None for array in fit_inputs(both, [np.zeros(of, np.float32), np.zeros(wanted, np.float32)])] == [
        True
    ] * 2
    with pytest.raises(WrongSize, match=rf"it must be {wanted} to match 'first'.*np\.zeros\(\({wanted},\), 'float32'\)"):
        fit_inputs(both, [np.zeros(of, np.float32), np.zeros(wanted - 1 or 2, np.float32)])
