"""Models of one size in tiles: the halo that is measured, the seams that are left, and models for which no halo is enough.

The models are real: U-Nets whose weights are a formula, and a small transformer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract.manifest import MAX_SEAM, MeasuredHalo
from bioengine_contract.package import Package
from bioengine_runner.inference import Pipeline
from bioengine_runner.package_test import compare_tiles, find_halo
from bioengine_runner.rundir import Boot

from tests.packages.network import Conv, Network
from tests.packages.sizes import convolutional, image_of, two_images
from tests.packages.unet import UNet, unet
from tests.packages.whole_tile import transformer
from tests.unit.runner.stored import stored


def boot(folder: Path) -> Boot:
    return Boot(folder, folder, run_timeout=60, debug=False, accelerator="cpu")


def with_halo(folder: Path, **pixels: int) -> Package:
    """The package in a folder, as if this halo had been measured."""
    return stored(folder, folder.name, halo=MeasuredHalo(pixels, 0.0, "onnx"))


def seams(package: Package, folder: Path) -> dict[str, Any]:
    outcome = compare_tiles(package, "onnx", boot(folder))
    assert "problem" not in outcome, outcome
    return outcome


@pytest.fixture(scope="module")
def fixed_unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net of three levels for images of 256 x 256, whose description declares no halo."""
    folder = tmp_path_factory.mktemp("packages")
    unet(folder, "fixed-unet", UNet(2, 8, 3), image_of(61, 1, 1, 256, 256), 256, halo=0)
    return folder / "fixed-unet"


def test_seams_of_a_unet_are_smaller_the_more_its_tiles_overlap(fixed_unet: Path, tmp_path: Path) -> None:
    shares = {halo: seams(with_halo(fixed_unet, y=halo, x=halo), tmp_path)["share"] for halo in (0, 8, 16, 32, 64)}
    print(f"largest difference as a share of the range, by halo: {shares}")
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares[0] > 0.3 and shares[16] > 5 * MAX_SEAM and shares[32] < 3 * MAX_SEAM and shares[64] < MAX_SEAM


def test_without_a_measurement_tiles_overlap_by_32_pixels(fixed_unet: Path, tmp_path: Path) -> None:
    default = seams(stored(fixed_unet, "fixed-unet"), tmp_path)
    assert default["tile"] == {"y": 256, "x": 256} and default["halo"] == {"y": 32, "x": 32}
    assert default == seams(with_halo(fixed_unet, y=32, x=32), tmp_path)


def test_the_measured_halo_is_the_smallest_that_leaves_no_seam(fixed_unet: Path, tmp_path: Path) -> None:
    found = find_halo(stored(fixed_unet, "fixed-unet"), "onnx", boot(tmp_path))
    print(f"measured: {found}")
    pixels = found["pixels"]
    # Three halvings and fourteen convolutions look 44 pixels far; what counts is nearer.
    assert set(pixels) == {"y", "x"} and all(16 < halo <= 44 for halo in pixels.values())
    assert 0 < found["difference"] < MAX_SEAM
    assert seams(with_halo(fixed_unet, **pixels), tmp_path)["share"] < MAX_SEAM
    assert seams(with_halo(fixed_unet, **{axis: halo // 2 for axis, halo in pixels.items()}), tmp_path)["share"] > MAX_SEAM


def test_tiles_of_networks_that_halve_images_keep_their_phase(fixed_unet: Path, tmp_path: Path) -> None:
    """The same pixels in an image that begins 32 pixels later; both have a size that is no multiple of anything."""
    image = image_of(62, 1, 1, 256, 531)
    pipeline = Pipeline(with_halo(fixed_unet, y=44, x=44), ["onnx"], boot(tmp_path))
    (whole,), (later,) = pipeline.predict([image]), pipeline.predict([image[..., 32:]])
    pipeline.opened.close()
    inner = slice(44, 499 - 44)
    np.testing.assert_allclose(later[..., inner], whole[..., 32:][..., inner], atol=MAX_SEAM * np.ptp(whole))


def test_what_is_known_of_a_convolution_is_measured_exactly(tmp_path: Path) -> None:
    """It sees 6 pixels each way, and the farthest count as much as the nearest."""
    network = Network([Conv(np.full((1, 1, 13, 13), 1 / 169, np.float32))])
    convolutional(tmp_path, "box-filter", network, image_of(63, 1, 1, 64, 64), 64, halo=1)
    package = stored(tmp_path / "box-filter", "box-filter")
    axes = [[_without_halo(axis) for axis in spec.axes] for spec in package.manifest.outputs]
    (output,) = package.manifest.outputs
    bare = stored(tmp_path / "box-filter", "box-filter", outputs=(type(output)(output.id, output.dtype, tuple(axes[0])),))
    assert find_halo(bare, "onnx", boot(tmp_path))["pixels"] == {"y": 6, "x": 6}
    assert "no image axis" not in str(find_halo(package, "onnx", boot(tmp_path))), "declared along both axes"
    assert find_halo(package, "onnx", boot(tmp_path))["pixels"] == {}


def _without_halo(axis: Any) -> Any:
    return type(axis)(axis.id, axis.type, axis.min, axis.step, axis.reference)


def test_twenty_planes_overlap_by_five(tmp_path: Path) -> None:
    unet(tmp_path, "twenty-planes", UNet(3, 8, 1), image_of(64, 1, 1, 20, 20, 20), 20, halo=0)
    folder = tmp_path / "twenty-planes"
    default = seams(stored(folder, "twenty-planes"), tmp_path)
    assert default["halo"] == {"z": 5, "y": 5, "x": 5}
    assert default["share"] < seams(with_halo(folder, z=2, y=2, x=2), tmp_path)["share"] / 2
    found = find_halo(stored(folder, "twenty-planes"), "onnx", boot(tmp_path))
    assert all(2 < halo <= 5 for halo in found["pixels"].values()), found


def test_a_model_that_sees_its_whole_tile_is_recognised(tmp_path: Path) -> None:
    """No halo is enough; it keeps the one that it has without a measurement, and the difference says what that leaves."""
    y, x = np.mgrid[:128, :128] / 128
    image = (y * np.sin(9 * x) + 0.1 * image_of(65, 128, 128))[None, None].astype(np.float32)
    transformer(tmp_path, "small-transformer", image)
    package = stored(tmp_path / "small-transformer", "small-transformer")
    found = find_halo(package, "onnx", boot(tmp_path))
    print(f"measured: {found}")
    assert found["pixels"] == {"y": 32, "x": 32} and found["difference"] > 5 * MAX_SEAM
    assert seams(package, tmp_path)["share"] > MAX_SEAM


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    unet(tmp_path, "flat-image", UNet(2, 4, 1), np.zeros((1, 1, 32, 32), np.float32), 32, halo=0)
    found = find_halo(stored(tmp_path / "flat-image", "flat-image"), "onnx", boot(tmp_path))
    assert found == {"problem": "its result for the test image is the same everywhere"}
    two_images(tmp_path)
    found = find_halo(stored(tmp_path / "two-images", "two-images"), "onnx", boot(tmp_path))
    assert found == {"problem": "cannot be tiled: it has no image axis of one size that an output follows"}
