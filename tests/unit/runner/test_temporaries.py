"""How much memory looking at an array takes: a block, however large the array, as many are looked at in one process."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from bioengine_contract.manifest import Axis, Tensor
from bioengine_contract.tensors.blocks import blocks
from bioengine_contract.tensors.cast import cast
from bioengine_contract.tensors.errors import LossyCast
from bioengine_contract.tensors.finite import is_finite, warnings_of_inputs

_BYTES = 64_000_000
_MIN = 16_000_000


def peak(call: Callable[[], object]) -> int:
    """Bytes that `call` takes at most, beside what there was before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def image(dtype: str, value: float, *others: float) -> np.ndarray:
    """64 MB of `value`, the others at the end."""
    array = np.full((1000, _BYTES // 1000 // np.dtype(dtype).itemsize), value, dtype)
    if others:
        array[-1, -len(others) :] = others
    return array


def every_second(array: np.ndarray) -> np.ndarray:
    """A view of as many values, which lie apart."""
    return np.repeat(array, 2, axis=1)[:, ::2]


_AS_IS, _TURNED, _APART = np.asarray, np.transpose, every_second


@pytest.mark.parametrize(
    ("dtype", "values", "arranged", "wanted", "told"),
    [
        ("int32", (7, 2**24 + 1), _AS_IS, "float32", "1 of its 16000000 values are whole numbers that float32 cannot represent"),
        ("int32", (7, 2**24 + 1), _TURNED, "float32", "1 of its 16000000 values are whole numbers that float32 cannot represent"),
        ("int32", (7, 2**24 + 1), _APART, "float32", "1 of its 16000000 values are whole numbers that float32 cannot represent"),
        ("int64", (7, 2**53 + 1), _AS_IS, "float64", "1 of its 8000000 values are whole numbers that float64 cannot represent"),
        ("float64", (2.0**30, np.inf, np.nan), _APART, "float32", "its values are rounded to about 6 digits"),
        ("float64", (7, 2.0**24 + 1), _AS_IS, "float32", "1 of its 8000000 values are whole numbers"),
        ("float32", (7,), _AS_IS, "uint8", ""),
        ("float32", (7, 8.5), _TURNED, "uint8", "their fractions would be lost"),
        ("float16", (7, np.nan, np.inf), _AS_IS, "uint8", "2 of its 32000000 values are NaN or infinite"),
        ("int16", (7, -1), _AS_IS, "uint16", "its values are from -1 to 7"),
    ],
)
def test_a_cast_takes_the_result_and_little_more(
    dtype: str, values: tuple[float, ...], arranged: Callable[[np.ndarray], np.ndarray], wanted: str, told: str
) -> None:
    array = image(dtype, *values)
    spec = Tensor("image", wanted, (Axis("y", "space", 1, 1), Axis("x", "space", 1, 1)))
    given, said, results = arranged(array), list[str](), list[np.ndarray]()

    def call() -> None:
        try:
            results.append(cast(spec, given, said))
        except LossyCast as error:
            said.append(str(error))

    taken = peak(call)
    assert taken <= array.size * np.dtype(wanted).itemsize + _MIN
    assert told in "".join(said) and bool(said) == bool(told)
    for result in results:
        assert result.shape == given.shape and result.dtype == wanted
        with np.errstate(all="ignore"):
            assert all(np.array_equal(got, of.astype(wanted), equal_nan=True) for got, of in blocks(result, given))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_nan_and_infinity_are_counted_in_little_memory(dtype: str) -> None:
    array = image(dtype, 1, np.nan, np.inf, -np.inf)
    said: list[str] = []
    assert peak(lambda: said.extend(warnings_of_inputs({"image": array}))) <= _MIN
    assert "NaN in 1 and infinity in 2 of" in said[0]
    large = image(dtype, float(np.finfo(dtype).max))
    assert peak(lambda: is_finite(large)) <= _MIN and is_finite(large)


def test_blocks_have_each_value_once_and_together() -> None:
    numbers = np.arange(600_000)
    for array in (numbers.reshape(3, -1), numbers.reshape(200, 3, -1).transpose(2, 0, 1), numbers.reshape(6, -1)[::-2, ::3]):
        for other in (array * 2, np.ascontiguousarray(array) * 2):
            pairs = [(one.copy(), two.copy()) for one, two in blocks(array, other)]
            assert all(np.array_equal(one * 2, two) and one.ndim == 1 for one, two in pairs)
            assert np.array_equal(np.sort(np.concatenate([one for one, _ in pairs])), np.sort(array, axis=None))
    assert not list(blocks(np.zeros((0, 3)))) and [int(block[0]) for (block,) in blocks(np.array(5))] == [5]
