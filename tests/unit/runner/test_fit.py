"""From what a client sent to a model's arrays."""

from __future__ import annotations

import numpy as np
import pytest
from bioengine_runner.errors import BadRequest, LossyCast, NotAnArray, WrongAxes, WrongInputCount, WrongSize
from bioengine_runner.store.manifest import Axis, SizeReference, Tensor
from bioengine_runner.tensors.fit import check_shapes, fit_inputs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

BATCH, CHANNEL = Axis("batch", "batch", 1, 1), Axis("channel", "channel", 2, 0)


def spec(dtype: str = "float32", **more: int) -> Tensor:
    return Tensor("image", dtype, (BATCH, CHANNEL, Axis("y", "space", 8, 4), Axis("x", "space", 8, 4)))


def image(dtype: str = "float32", shape: tuple[int, ...] = (1, 2, 8, 12)) -> np.ndarray:
    return np.zeros(shape, dtype)


@given(npst.arrays(npst.integer_dtypes() | npst.unsigned_integer_dtypes(), (1, 2, 8, 8)))
def test_integers_become_float32(array: np.ndarray) -> None:
    (fitted,) = fit_inputs([spec()], [array])
    assert fitted.dtype == np.float32
    np.testing.assert_array_equal(fitted, array.astype(np.float32))


@given(
    npst.arrays(st.sampled_from(["int64", "int16", "uint64", "float32", "float64", "bool"]), (1, 2, 8, 8)),
    st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]),
)
def test_casts_keep_every_value_or_are_refused(array: np.ndarray, wanted: str) -> None:
    try:
        (fitted,) = fit_inputs([spec(wanted)], [array])
    except LossyCast as error:
        assert array.dtype.name in str(error) and wanted in str(error)
        return
    assert fitted.dtype == wanted
    if not (array.dtype.kind in "iu" and wanted == "float32"):  # the one loss that is allowed
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
        (np.full((1, 2, 8, 8), 0.1, np.float64), "float32"),
        (np.full((1, 2, 8, 8), 2, np.uint8), "bool"),
    ],
)
def test_lossy_casts_are_refused(array: np.ndarray, wanted: str) -> None:
    with pytest.raises(LossyCast, match=rf"{array.dtype.name}.*{wanted}"):
        fit_inputs([spec(wanted)], [array])


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 2, 12, 16)])
def test_shapes_that_fit(shape: tuple[int, ...]) -> None:
    check_shapes([spec()], [shape])


@given(st.lists(st.integers(0, 40), min_size=0, max_size=6).map(tuple))
def test_every_shape_fits_or_is_refused_with_its_axes(shape: tuple[int, ...]) -> None:
    fits = len(shape) == 4 and shape[0] >= 1 and shape[1] == 2 and all(size >= 8 and size % 4 == 0 for size in shape[2:])
    if fits:
        check_shapes([spec()], [shape])
        return
    with pytest.raises((WrongAxes, WrongSize)) as refusal:
        check_shapes([spec()], [shape])
    assert str(shape) in str(refusal.value) and "y: 8 + n*4" in str(refusal.value)


def test_a_size_that_follows_another_input() -> None:
    half = Axis("y", "space", 1, 1, SizeReference("image", "y", 0.5, 1))
    mask = Tensor("mask", "float32", (BATCH, half))
    check_shapes([spec(), mask], [(1, 2, 8, 8), (1, 5)])
    with pytest.raises(WrongSize, match="y is 4, it must be 5 to go with 'image'"):
        check_shapes([spec(), mask], [(1, 2, 8, 8), (1, 4)])


def test_a_list_of_samples_adds_the_batch_axis() -> None:
    samples = [np.full((2, 8, 8), value, np.float32) for value in (1, 2, 3)]
    (fitted,) = fit_inputs([spec()], [samples])
    assert fitted.shape == (3, 2, 8, 8) and fitted[1, 0, 0, 0] == 2


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
        ([image(shape=(2, 8, 8))], WrongAxes),
    ],
)
def test_what_is_refused(inputs: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        fit_inputs([spec()], inputs)
