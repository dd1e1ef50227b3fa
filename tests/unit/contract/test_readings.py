"""Arrays, lists of arrays and optional inputs for models of every order of axes; and what could be meant by what does not fit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
from bioengine_contract.errors import BadRequest
from bioengine_contract.manifest import Axis, Manifest, SizeReference, Tensor
from bioengine_contract.nearest import nearest
from bioengine_contract.request import UnknownKey
from bioengine_contract.tensors.errors import BadTile, Misfit, WrongAxes
from bioengine_contract.tensors.fit import check_shapes, fit_inputs, fit_tile

from tests.unit.contract.packages import manifest

ORDERS = ["bcyx", "byxc", "cbyx", "cyx", "yxc", "byx", "yx", "bczyx", "bzyxc", "zyxc", "bzcyx", "btcyx", "btyx", "bc", "bic"]
TYPES = {"b": ("batch", "batch"), "c": ("channel", "channel"), "t": ("time", "time"), "i": ("index", "index")}
SIZES = {"z": 6, "y": 8, "x": 12, "t": 7, "i": 5}


def tensor(order: str, channels: int = 1, id: str = "image", **more: bool) -> Tensor:
    axes = []
    for letter in order:
        name, kind = TYPES.get(letter, (letter, "space"))
        axes.append(Axis(name, kind, channels, 0) if letter == "c" else Axis(name, kind, 1, 1))
    return Tensor(id, "float32", tuple(axes), **more)


def model(*specs: Tensor) -> Manifest:
    return manifest(*specs)


def sample(order: str, channels: int, seed: int = 0) -> np.ndarray:
    """Of these axes, of which none is the batch."""
    shape = [channels if letter == "c" else SIZES[letter] for letter in order]
    return np.random.default_rng(seed).random(shape, np.float32)


def fit(spec: Tensor, item: object, axes: str | None = None) -> np.ndarray:
    (array,) = fit_inputs(model(spec), [item], axes)
    assert array is not None
    return array


def without_channel(array: np.ndarray, order: str) -> np.ndarray:
    return array.reshape([size for letter, size in zip(order, array.shape) if letter != "c"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_a_list_adds_the_batch_axis_wherever_it_is(order: str, channels: int) -> None:
    spec, inner = tensor(order, channels), order.replace("b", "")
    one, two = sample(inner, channels), sample(inner, channels, 1)
    if "b" not in order:
        with pytest.raises(WrongAxes, match="the model has none: send one array"):
            fit(spec, [one])
        np.testing.assert_array_equal(fit(spec, one), one)
        return
    place = order.index("b")
    for parts in ([one], [one, two]):
        wanted = np.stack(parts, axis=place)
        np.testing.assert_array_equal(fit(spec, parts), wanted)
        np.testing.assert_array_equal(fit(spec, parts, inner.upper()), wanted)
        np.testing.assert_array_equal(fit(spec, parts, f"b{inner}"), wanted, "its own axes, and those of the whole")
        np.testing.assert_array_equal(fit(spec, [part.T for part in parts], inner[::-1]), wanted)
        np.testing.assert_array_equal(fit(spec, wanted), wanted)
        if "c" in order and channels == 1:
            np.testing.assert_array_equal(fit(spec, [without_channel(part, inner) for part in parts]), wanted)
        with pytest.raises(WrongAxes, match="send a single array without a list"):
            fit(spec, [np.stack([part], axis=place) for part in parts])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", [order for order in ORDERS if "b" in order])
def test_an_array_without_the_batch_is_one_sample_or_refused(order: str, channels: int) -> None:
    """Never anything else: where more than one reading fits, or a size that is no batch would become one."""
    spec, inner = tensor(order, channels), order.replace("b", "")
    one = sample(inner, channels)
    try:
        got = fit(spec, one)
    except WrongAxes as error:
        assert channels == 1 and "c" in order and "give its axes" in str(error)
        got = fit(spec, one, inner)
    np.testing.assert_array_equal(got, np.expand_dims(one, order.index("b")))


@pytest.mark.parametrize(
    ("order", "channels", "shape", "axes", "advice"),
    [
        ("bcyx", 1, (5, 8, 12), None, 'Give axes="byx" for planes'),
        ("bcyx", 1, (5, 8, 12), "zyx", 'Give axes="byx" to run them one by one.'),
        ("bcyx", 1, (5, 8, 12), "TYX", 'Give axes="byx"'),
        ("bcyx", 1, (8, 12, 5), "yxz", 'Give axes="yxb"'),
        ("bcyx", 1, (5, 1, 8, 12), "tcyx", 'Give axes="bcyx"'),
        ("bcyx", 1, (4, 5, 8, 12), "tzyx", 'image.reshape(-1, *image.shape[2:]) with axes="byx"'),
        ("bcyx", 1, (4, 5, 8, 12), "bzyx", 'image.reshape(-1, *image.shape[2:]) with axes="byx"'),
        ("bcyx", 1, (4, 5, 8, 12), None, 'image.reshape(-1, *image.shape[2:]) with axes="byx"'),
        ("bcyx", 1, (3, 4, 5, 8, 12), None, 'image.reshape(-1, *image.shape[3:]) with axes="byx"'),
        ("bcyx", 2, (4, 5, 2, 8, 12), "tzcyx", 'image.reshape(-1, *image.shape[2:]) with axes="bcyx"'),
        ("bcyx", 3, (8, 12, 3), None, 'Give axes="yxc"'),
        ("bcyx", 3, (1, 8, 12, 3), None, 'Give axes="byxc"'),
        ("byxc", 3, (3, 8, 12), None, 'Give axes="cyx"'),
        ("bcyx", 1, (8, 12, 3), None, 'image[..., :3].mean(-1), with axes="yx"'),
        ("bczyx", 1, (5, 6, 8, 12), None, 'Give axes="bzyx"'),
        ("cyx", 1, (5, 8, 12), "zyx", "Send one of them at a time."),
    ],
)
def test_advice_about_axes_works(order: str, channels: int, shape: Sequence[int], axes: str | None, advice: str) -> None:
    spec, array = tensor(order, channels), np.random.default_rng(0).random(shape, np.float32)
    with pytest.raises(Misfit) as error:
        fit(spec, array, axes)
    text = str(error.value).partition(" The model takes ")[0]
    assert advice in text
    for code, said in re.findall(r'(?:(image[.\[].*?),? with|Say) axes="(\w+)"', text):
        got = fit(spec, eval(code, {"image": array}) if code else array, said)
        assert got.size == array.size or "mean" in code


@pytest.mark.parametrize("image", [np.zeros((8, 12, 3), np.float32), np.zeros((8, 12, 3, 1), np.float32)[..., 0]])
def test_advice_about_a_list_is_about_its_arrays(image: np.ndarray) -> None:
    spec = tensor("bcyx", 3)
    with pytest.raises(Misfit, match='Give axes="yxc" if these are its axes') as error:
        fit(spec, [image])
    assert 'axes="b' not in str(error.value)
    assert fit(spec, [image], "yxc").shape == (1, 3, 8, 12)


@pytest.mark.parametrize("shape", [(5, 32, 40), (32, 40, 3)])
@pytest.mark.parametrize("order", ["cyxb", "cbyx", "cybx"])
def test_a_batch_that_is_not_first_is_counted_where_it_is(order: str, shape: Sequence[int]) -> None:
    """Where the channel is left out, the array's axes are not at the model's places."""
    with pytest.raises(WrongAxes, match="give its axes"):
        fit(tensor(order), np.zeros(shape, np.float32))


def test_no_advice_about_an_array_that_was_moved() -> None:
    """What it speaks of is the client's own array, not what was made of it."""
    for axes in ("yxc", "cyx"):
        with pytest.raises(Misfit, match="channel is 3, it must be 1") as error:
            fit(tensor("bcyx"), np.zeros([{"c": 3, **SIZES}[letter] for letter in axes], np.float32), axes)
        assert 'axes="' not in str(error.value)


def test_no_advice_about_axes_where_sizes_do_not_go_together() -> None:
    follows = Tensor("mask", "float32", (*tensor("bc").axes, Axis("y", "space", 1, 1, SizeReference("raw", "y", 1, 0))))
    with pytest.raises(Misfit, match="to match 'raw'") as error:
        fit_inputs(model(tensor("bcy", id="raw"), follows), [np.zeros((1, 1, 8)), np.zeros((1, 1, 9))])
    assert 'axes="' not in str(error.value)


def test_no_advice_where_nothing_would_work() -> None:
    for order, shape in (("bcyx", (8,)), ("bczyx", (8, 12)), ("bcyx", (8, 3, 3)), ("yx", (5, 8, 12))):
        with pytest.raises(WrongAxes) as error:
            fit(tensor(order, 2), np.zeros(shape, np.float32))
        assert 'axes="' not in str(error.value)


RAW, MASK, LAST = tensor("byx", id="raw"), tensor("byx", id="mask", optional=True), tensor("byx", id="last", optional=True)
IMAGE = np.ones((1, 8, 12), np.float32)


def test_optional_inputs() -> None:
    package = model(RAW, MASK, LAST)
    for inputs, given in (
        ([IMAGE], [True, False, False]),
        ([IMAGE, None], [True, False, False]),
        ([IMAGE, IMAGE], [True, True, False]),
        ([IMAGE, None, IMAGE], [True, False, True]),
        ([IMAGE, [IMAGE[0]], IMAGE], [True, True, True]),
    ):
        arrays = fit_inputs(package, inputs)
        assert [array is not None for array in arrays] == given
        check_shapes(package, [None if array is None else array.shape for array in arrays])
        for axes in ("byx", ["byx"] * 3, ["byx"] * len(inputs)):
            assert len(fit_inputs(package, inputs, axes)) == 3
    assert len(fit_inputs(model(MASK, RAW), [None, IMAGE])) == 2
    for bad in ([], [None], [None, IMAGE], [IMAGE] * 4, [None] * 3):
        with pytest.raises(Misfit, match="None stands for an optional input that is left out"):
            fit_inputs(package, bad)
    with pytest.raises(Misfit, match="and so are all others"):
        fit_inputs(model(MASK, LAST), [])
    with pytest.raises(Misfit, match="'raw' is missing"):
        check_shapes(package, [None, (1, 8, 12), None])


def test_a_size_that_follows_an_optional_input_is_free_without_it() -> None:
    follows = Tensor("last", "float32", (Axis("y", "space", 1, 1, SizeReference("mask", "y", 1, 0)),))
    mask = Tensor("mask", "float32", (Axis("y", "space", 1, 1),), optional=True)
    check_shapes(model(mask, follows), [None, (7,)])
    with pytest.raises(Misfit, match="to match 'mask'"):
        check_shapes(model(mask, follows), [(6,), (7,)])


def test_an_older_manifest_has_no_optional_inputs() -> None:
    item = {"id": "raw", "dtype": "float32", "axes": []}
    read = Manifest.model_validate({**manifest().model_dump(), "inputs": [item, {**item, "optional": True}]})
    assert [tensor.optional for tensor in read.inputs] == [False, True]


def test_tiles_in_capitals() -> None:
    package = model(tensor("bcyx"))
    assert fit_tile(package, {"Y": 64, "x": 32}) == {"y": 64, "x": 32}
    with pytest.raises(BadTile):
        fit_tile(package, {"Q": 64})


def test_nearest_names() -> None:
    known = ("model_id", "inputs", "weight_format", "axes", "tile", "return_rdf")
    near = {"axis": "axes", "AXES": "axes", "input": "inputs", "weights_format": "weight_format", "weightFormat": "weight_format",
            "model": "model_id", "modelId": "model_id", "id": "model_id", "tiles": "tile", "rdf": "return_rdf",
            "tile_size": "tile", "format": "weight_format", "image": "inputs", "images": "inputs"}  # fmt: skip
    for wrong, right in near.items():
        assert nearest(wrong, known) == right
        assert f"unknown key '{wrong}'. Did you mean '{right}'?" in str(UnknownKey(wrong))
    for far in ("zzz", "x" * 10_000, "", 5, None):
        assert nearest(str(far), known) is None
        assert "Did you mean" not in str(UnknownKey(far)) and len(str(UnknownKey(far))) < 300
    assert issubclass(UnknownKey, BadRequest)


def test_every_pair_of_orders_moves_axes_right() -> None:
    for order, axes in itertools.product(["bcyx", "byxc", "cbyx"], ["bcyx", "byxc", "yxbc"]):
        whole = np.random.default_rng(0).random([{"b": 4, "c": 3, **SIZES}[letter] for letter in axes], np.float32)
        np.testing.assert_array_equal(fit(tensor(order, 3), whole, axes), np.einsum(f"{axes}->{order}", whole))
