"""Images of any axes and sizes, and batches, through the whole stack: whole, padded, in tiles and together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypha_rpc import connect_to_server

from tests.stack.harness import RUNNER, Client, Stack
from tests.stack.reference import Run, core_outputs

# Their receptive field is within their halo.
WITHIN_HALO = {
    "conv-2d": (1, 1, 128, 160),
    "conv-2d-uint16": (1, 1, 128, 96),
    "conv-half": (1, 1, 128, 96),
    "conv-double": (1, 1, 96, 128),
    "conv-3d": (1, 1, 40, 48, 56),
    "old-conv": (1, 1, 128, 96),
}

SIZES = [(37, 53), (1, 1), (5, 200), (33, 32), (2, 31)]
# More pixels than are run without a look at the memory, and than the largest tile has; each with the size of its tiles.
LARGE = {"conv-2d": ((1, 1, 2048, 2048), 512), "conv-3d": ((1, 1, 64, 256, 256), 48)}


def image(seed: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(0, 1, shape).astype(dtype) if dtype == "float32" else random.integers(0, 60_000, shape).astype(dtype)


def outputs(client: Client, id: str, *images: Any, **more: Any) -> list[np.ndarray]:
    result = client.run(id, list(images), **more)
    assert result["success"] is True, result
    return list(result["outputs"])


def image_for(id: str, seed: int, *shape: int) -> np.ndarray:
    return image(seed, *shape, dtype="uint16" if id.endswith("uint16") else "float32")


def padded(given: np.ndarray) -> np.ndarray:
    """Mirrored at the end to the next size that `conv-2d` takes."""
    shape = given.shape[2:]
    valid = [max(32, -(-size // 4) * 4) for size in shape]
    return np.pad(given, [(0, 0), (0, 0), *((0, wanted - size) for wanted, size in zip(valid, shape))], mode="reflect")


INPUTS: dict[Any, tuple[str, list[np.ndarray]]] = {
    **{("tiles", id): (id, [image_for(id, 1, *shape)]) for id, shape in WITHIN_HALO.items()},
    "two": ("two-images", [image(1, 1, 1, 128, 96), image(2, 1, 1, 128, 96)]),
    "far": ("conv-2d-far", [image(1, 1, 1, 128, 128)]),
    **{size: ("conv-2d", [image(3, 1, 1, *size)]) for size in SIZES},
}
"""The images of the tests, and the models that they are for."""


@pytest.fixture(scope="module")
def wholes(all_kinds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What bioimageio.core makes of each of `INPUTS`, whole. One process for all of them, since it takes seconds to start."""
    runs = [
        Run(all_kinds / id, "onnx", [padded(array) for array in arrays] if name in SIZES else arrays)
        for name, (id, arrays) in INPUTS.items()
    ]
    return dict(zip(INPUTS, core_outputs(runs, tmp_path_factory.mktemp("any_image") / "core")))


def test_tiles_give_what_the_whole_gives(kinds_client: Client, wholes: dict[Any, Any]) -> None:
    """Everywhere, the borders included, and with the statistics of the whole image."""
    for id in WITHIN_HALO:
        whole = wholes["tiles", id]
        assert not isinstance(whole, str), whole
        for tile in (64, {"x": 64}) if "3d" not in id else (24, {"z": 24}):
            (tiled,) = outputs(kinds_client, id, *INPUTS["tiles", id][1], tile=tile)
            np.testing.assert_allclose(tiled, whole[0], atol=1e-5, rtol=1e-5, err_msg=f"{id}, {tile}")


@pytest.mark.extended
def test_tiles_of_two_inputs_and_outputs(kinds_client: Client, wholes: dict[Any, Any]) -> None:
    """Both images are cut in the same places, and the outputs put together at their own scales."""
    id, both = INPUTS["two"]
    tiled = outputs(kinds_client, id, *both, tile=48)
    for one, other in zip(tiled, wholes["two"]):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.extended
def test_beyond_the_halo_the_difference_is_told(kinds_client: Client, wholes: dict[Any, Any]) -> None:
    (id, (given,)), whole = INPUTS["far"], wholes["far"]
    (tiled,) = outputs(kinds_client, id, given, tile=64)
    difference = np.abs(tiled - whole[0])
    print(f"conv-2d-far, tiles of 64: differs by at most {difference.max():.2g} of {np.ptp(whole[0]):.2g}")
    assert 1e-5 < difference.max() < np.ptp(whole[0]) and (difference < 1e-5).any()


# Each for one parameter, the pair.
@pytest.mark.parametrize("shape", [SIZES[0], *(pytest.param(size, marks=pytest.mark.extended) for size in SIZES[1:])])
def test_sizes_that_the_model_does_not_take(kinds_client: Client, wholes: dict[Any, Any], shape: tuple[int, int]) -> None:
    """Mirrored at the end to the next size that it takes, and cut back."""
    id, (given,) = INPUTS[shape]
    (got,) = outputs(kinds_client, id, given)
    assert got.shape == (1, 1, *shape)
    np.testing.assert_allclose(got, wholes[shape][0][..., : shape[0], : shape[1]], atol=1e-5)


@pytest.mark.parametrize("id", ["conv-2d-fixed", "old-fixed-halo"])
def test_a_model_of_one_size_on_any_image(kinds_client: Client, id: str) -> None:
    """A window of a large image gives what the window alone gives, but for its border."""
    side = outputs(kinds_client, id, image(4, 1, 1, 10, 10))[0].shape[-1]
    assert side == 10, "padded and cut back"
    given = image(4, 1, 1, 200, 151)
    (whole,) = outputs(kinds_client, id, given)
    assert whole.shape == given.shape
    for top, left in ((0, 0), (50, 70), (136, 87)):
        (window,) = outputs(kinds_client, id, given[..., top : top + 64, left : left + 64])
        inner = (..., slice(8, 56), slice(8, 56))
        np.testing.assert_allclose(whole[..., top : top + 64, left : left + 64][inner], window[inner], atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "shape"), [("yx", (40, 48)), ("xy", (48, 40)), ("cyx", (1, 40, 48)), ("yxc", (40, 48, 1)), ("zyx", (1, 40, 48))]
)
def test_axes_by_name_and_left_out(kinds_client: Client, axes: str, shape: tuple[int, ...]) -> None:
    plain = image(5, 1, 1, 40, 48)
    (wanted,) = outputs(kinds_client, "conv-2d", plain)
    given = np.einsum(f"yx->{axes.replace('c', '').replace('z', '')}", plain[0, 0]).reshape(shape)
    (got,) = outputs(kinds_client, "conv-2d", given, axes=axes)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_without_axes_only_one_reading_may_fit(kinds_client: Client) -> None:
    plain = image(6, 3, 1, 40, 48)
    (wanted,) = outputs(kinds_client, "conv-2d", plain)
    for same in ([plain[0], plain[1], plain[2]], [plain[0, 0], plain[1, 0], plain[2, 0]]):
        np.testing.assert_allclose(outputs(kinds_client, "conv-2d", same)[0], wanted, atol=1e-6)
    np.testing.assert_allclose(outputs(kinds_client, "conv-2d", plain[:, 0], axes="byx")[0], wanted, atol=1e-6)
    refused = [(3, 40, 48), (40, 48, 3), (3, 5, 40, 48), (2, 3, 4, 40, 48)]
    for id, shape in [*(("conv-2d", shape) for shape in refused), ("conv-3d", (40, 48))]:
        result = kinds_client.run(id, [image(6, *shape)])
        assert result["success"] is False and str(shape) in result["error"] and "This works" in result["error"], result


@pytest.mark.extended
def test_batches_of_any_size(kinds_client: Client) -> None:
    """Any is taken, split for a model that takes one sample at a time, and equal to one by one."""
    for id in ("conv-2d", "conv-2d-fixed", "old-fixed"):
        shape = outputs(kinds_client, id, np.zeros((1, 1, 64, 64), np.float32))[0].shape[1:]
        batch = image(7, 9, 1, 64, 64)
        (together,) = outputs(kinds_client, id, batch)
        assert together.shape == (9, *shape)
        for number, sample in enumerate(batch):
            np.testing.assert_allclose(together[number], outputs(kinds_client, id, sample[None])[0][0], atol=1e-5)


async def test_requests_at_the_same_time_share_forward_passes(kinds_stack: Stack) -> None:
    """Each gets its own result, to 1e-5 that of one by one; its statistics are its own."""
    given = [image(seed, 1, 1, 640, 640) * seed for seed in range(1, 17)]
    async with connect_to_server({"server_url": kinds_stack.url, "method_timeout": 120}) as server:
        triton = await server.get_service("triton-client")

        async def run(array: np.ndarray) -> np.ndarray:
            request = {"model_id": "conv-2d", "inputs": [array]}
            answer = await triton.execute(inputs=[request], model_name=RUNNER, serialization="imjoy")
            return np.asarray(answer["result"]["outputs"][0])

        alone = [await run(array) for array in given]
        before = kinds_stack.statistics("conv-2d")
        together = await asyncio.gather(*(run(array) for array in given))
    for one, other in zip(together, alone):
        np.testing.assert_allclose(one, other, atol=1e-5)
    after = kinds_stack.statistics("conv-2d")
    requests_run, passes = (after[key] - before[key] for key in ("inference_count", "execution_count"))
    assert requests_run == len(given) and passes < len(given), (requests_run, passes)


@pytest.mark.extended
def test_large_images(kinds_client: Client, all_kinds: Path, tmp_path: Path) -> None:
    """As the server decides, and in tiles: both as bioimageio.core has them, whole."""
    images = {id: image(8, *shape) for id, (shape, _) in LARGE.items()}
    runs = [Run(all_kinds / id, "onnx", [given]) for id, given in images.items()]
    for id, (whole,) in zip(images, core_outputs(runs, tmp_path / "core")):
        for more in ({}, {"tile": LARGE[id][1]}):
            (got,) = outputs(kinds_client, id, images[id], **more)
            np.testing.assert_allclose(got, whole, atol=1e-5, rtol=1e-5, err_msg=id)
