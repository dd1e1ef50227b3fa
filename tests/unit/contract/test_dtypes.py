"""From the dtype of an image to the model's dtype: what is cast, what users are told, and whether the advice works."""

from __future__ import annotations

import re

import numpy as np
import pytest
from bioengine_contract.manifest import Axis, Tensor
from bioengine_contract.tensors.cast import cast
from bioengine_contract.tensors.errors import LossyCast
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

SHAPE = (8, 12)


def spec(dtype: str) -> Tensor:
    return Tensor("image", dtype, (Axis("y", "space", 1, 1), Axis("x", "space", 1, 1)))


def fitted(array: np.ndarray, dtype: str) -> tuple[np.ndarray, list[str]]:
    warnings: list[str] = []
    return cast(spec(dtype), array, warnings), warnings


def refusal(array: np.ndarray, dtype: str) -> str:
    with pytest.raises(LossyCast, match=rf"is {array.dtype.name}, but the model takes {dtype}: ") as error:
        fitted(array, dtype)
    return str(error.value)


def followed(array: np.ndarray, advice: str) -> list[np.ndarray]:
    """What the code in an error makes of the image: a statement comes first and changes it, an expression is one way each."""
    ways = []
    for code in re.findall("`(.*?)`", advice):
        if code.startswith("image = "):
            array = eval(code.removeprefix("image = "), {"np": np, "image": array})
        else:
            ways.append(eval(code, {"np": np, "image": array}))
    return ways


def ramp(low: float, high: float, dtype: str = "float32") -> np.ndarray:
    return np.linspace(low, high, 96).astype(dtype).reshape(SHAPE)


@pytest.mark.parametrize(
    ("array", "wanted", "advice"),
    [
        (ramp(0, 1), "uint8", "`(image * 255).round().astype('uint8')`"),
        (ramp(0, 1), "uint16", "`(image * 65535).round().astype('uint16')`"),
        (ramp(0, 1, "float64"), "uint16", "`(image * 65535).round().astype('uint16')`"),
        (ramp(0, 1, "float16"), "uint16", "`(image.astype('float32') * 65535).round().astype('uint16')`"),
        (ramp(0, 1), "int32", "`(image * 65535).round().astype('int32')`"),
        (ramp(-1, 1), "int16", "`(image * 32767).round().astype('int16')`"),
        (ramp(0, 0.3), "uint8", "`(image * 255).round().astype('uint8')`"),
        (ramp(0, 0.0039), "uint8", "(0, 255)"),
        (ramp(0, 1e-5, "float64"), "uint16", "(0, 65535)"),
        (ramp(-1, 1), "uint8", "(0, 255)"),
        (ramp(-3, 900.5), "uint16", "(0, 65535)"),
        (ramp(0, 3.5), "uint8", "(0, 255)"),
        (ramp(0, 200.5), "uint8", "`image.round().astype('uint8')`"),
        (ramp(0, 4095.5), "uint8", "its values are from 0 to 4095.5, but uint8 holds 0 to 255"),
        (ramp(0, 1e30), "uint8", "(0, 255)"),
        (ramp(0, 4095, "uint16"), "uint8", "Do not rescale labels of objects"),
        (ramp(-500, 500, "int16"), "uint16", "(0, 65535)"),
        (ramp(-128, 127, "int8"), "uint8", "(0, 255)"),
        (ramp(0, 2**40, "int64"), "int32", "(0, 65535)"),
        (np.full(SHAPE, 300, np.uint16), "uint8", "`image.clip(0, 255).astype('uint8')`"),
        (np.full(SHAPE, 7.5, np.float32), "uint8", "`image.round().astype('uint8')`"),
        (ramp(0, 255, "uint8"), "bool", "`image > 0`"),
        (ramp(0, 1), "bool", "`image > 0.5`"),
    ],
)
def test_advice_works_and_keeps_the_picture(array: np.ndarray, wanted: str, advice: str) -> None:
    text = refusal(array, wanted)
    assert advice in text
    ways = followed(array, text)
    assert ways
    for image in ways:
        got, warnings = fitted(image, wanted)
        assert got.dtype == wanted and not warnings
        order = got.reshape(-1).astype(np.float64)
        assert (np.diff(order) >= 0).all(), "what was brighter still is"
        if array.min() < array.max():
            levels = {"bool": 2, "int8": 32, "uint8": 32}.get(wanted, 90)
            assert len(np.unique(got)) >= levels, "and the image is not black"


def test_nan_and_infinity_have_no_place_in_integers() -> None:
    array = ramp(0, 1)
    array[0, :3] = np.nan, np.inf, -np.inf
    text = refusal(array, "uint8")
    assert "3 of its 96 values are NaN or infinite" in text
    (image,) = followed(array, text)
    got, _ = fitted(image, "uint8")
    assert (got[0, :3] == 0).all() and got[-1, -1] == 255
    whole = np.arange(96, dtype=np.float32).reshape(SHAPE)
    whole[0, 0] = np.nan
    (image,) = followed(whole, refusal(whole, "uint8"))
    np.testing.assert_array_equal(fitted(image, "uint8")[0].reshape(-1), np.arange(96))


def test_float64_becomes_float32_and_that_is_said() -> None:
    array = ramp(0, 1, "float64")
    got, (sentence,) = fitted(array, "float32")
    np.testing.assert_array_equal(got, array.astype(np.float32))
    assert "'image' is float64 and was cast to float32" in sentence
    array[0, :3] = np.nan, np.inf, -np.inf
    got, (sentence,) = fitted(array, "float32")
    np.testing.assert_array_equal(got, array.astype(np.float32))
    assert not fitted(array.astype(np.float16), "float32")[1], "nothing is lost"
    assert not fitted(ramp(0, 1), "float64")[1]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (1e39, "its values reach 1e+39, but float32 holds up to 3.4e+38"),
        (-1e300, "its values reach 1e+300"),
        (1e-60, "its values reach 1e-60, but float32 cannot tell"),
        (2.0**24 + 1, "1 of its 96 values are whole numbers that float32 cannot represent, such as 16777217"),
        (-(2.0**40) - 1, "such as -1099511627777"),
    ],
)
def test_float64_that_would_be_another_image_is_refused(value: float, problem: str) -> None:
    array = np.zeros(SHAPE)
    array[0, 0] = value
    array[0, 1] = np.inf
    text = refusal(array, "float32")
    assert problem in text
    for image in followed(array, text):
        got, _ = fitted(image, "float32")
        assert got[0, 0] != 0 and np.isfinite(got[0, 0])


def test_fractions_and_large_numbers_that_count_nothing_are_rounded() -> None:
    for values in (ramp(0, 1e8, "float64"), ramp(0, 1e30, "float64"), np.full(SHAPE, 2.0**30)):
        got, (sentence,) = fitted(np.where(values == np.rint(values), values, values + 0.1), "float32")
        assert got.dtype == np.float32 and "rounded" in sentence
    assert "inf" not in str(fitted(ramp(0, 3e38, "float64"), "float32")[0])


def test_integers_become_float32_and_are_exact_or_said() -> None:
    exact = np.full(SHAPE, 2**24, np.int64)
    got, warnings = fitted(exact, "float32")
    assert not warnings and (got == 2**24).all()
    assert not fitted(np.full(SHAPE, -(2**40), np.int64), "float32")[1], "a power of two"
    exact[0, 0] += 1
    got, (sentence,) = fitted(exact, "float32")
    assert "1 of its 96 values are whole numbers that float32 cannot represent, such as 16777217" in sentence
    assert "such as 9223372036854775807" in fitted(np.full(SHAPE, 2**63 - 1, np.int64), "float32")[1][0]
    assert "such as 18446744073709551615" in fitted(np.full(SHAPE, 2**64 - 1, np.uint64), "float32")[1][0]


def test_integers_that_float64_does_not_have_are_refused() -> None:
    np.testing.assert_array_equal(fitted(np.full(SHAPE, 2**53, np.int64), "float64")[0], 2.0**53)
    assert "such as 9007199254740993" in refusal(np.full(SHAPE, 2**53 + 1, np.int64), "float64")


def test_zeros_and_ones_are_false_and_true() -> None:
    for dtype in ("uint8", "int64", "float32"):
        got, warnings = fitted(np.eye(8, 12).astype(dtype), "bool")
        np.testing.assert_array_equal(got, np.eye(8, 12, dtype=bool))
        assert not warnings


@settings(max_examples=200)
@given(
    npst.arrays(st.sampled_from(["float16", "float32", "float64", "int8", "int16", "int64", "uint16", "uint64"]), (3, 4)),
    st.sampled_from(["bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float32", "float64"]),
)
def test_whatever_is_refused_its_advice_is_taken(array: np.ndarray, wanted: str) -> None:
    try:
        got, warnings = fitted(array, wanted)
    except LossyCast as error:
        with np.errstate(all="ignore"):
            ways = followed(array, str(error))
        assert ways
        for image in ways:
            assert fitted(image, wanted)[0].dtype == wanted, str(error)
        return
    assert got.dtype == wanted
    if not warnings:
        np.testing.assert_array_equal(got.astype(array.dtype) if wanted != "bool" else got, array)
