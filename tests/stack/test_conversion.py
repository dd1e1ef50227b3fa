"""A package with a PyTorch state dict alone, from its import to the result that a client gets.

With the environment for conversions, which `./bioengine test --all` builds.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conversion import check_first_request
from tests.stack.harness import ENVIRONMENTS, ROOT, Stack, bioengine, python

pytestmark = pytest.mark.extended


# Where CAREamics is, because that environment has torchvision and timm as well.
PROGRAM = """
import pathlib, sys
from bioengine_runner.conversion import torchvision_operators
torchvision_operators.define()
from tests.packages import architectures, state_dicts
folder = pathlib.Path(sys.argv[1])
state_dicts.main()
state_dicts.write(folder, "timely-toad", architectures.TORCHVISION_AND_TIMM, (1, 1, 16, 16))
state_dicts.write_careamics(folder)
"""


@pytest.fixture(scope="module")
def state_dicts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with packages; `timely-toad` imports torchvision and timm, and `caring-crow` is of CAREamics."""
    for name in ("convert", "careamics"):
        assert (ENVIRONMENTS / name).exists(), f"not built yet: ./bioengine environments add {name}"
    folder = tmp_path_factory.mktemp("state dicts")
    subprocess.run([python("careamics"), "-c", PROGRAM, str(folder)], cwd=ROOT, check=True)
    return folder


def torchs_own(package: Path, image: np.ndarray, folder: Path) -> np.ndarray:
    """What torch makes of an image with the code of a package, without any of this project's."""
    np.save(folder / "image.npy", image)
    program = (
        "import numpy as np, torch, sys; sys.path.insert(0, sys.argv[1]); from architecture import Network; "
        "model = Network(); model.load_state_dict(torch.load(sys.argv[1] + '/weights.pt', weights_only=True)); "
        "result = model.eval()(torch.from_numpy(np.load(sys.argv[2] + '/image.npy'))); "
        "np.save(sys.argv[2] + '/result.npy', result.detach().numpy())"
    )
    subprocess.run([python("runner"), "-c", program, str(package), str(folder)], check=True)
    result: np.ndarray = np.load(folder / "result.npy")
    return result


def test_from_import_to_result(stack: Stack, state_dicts: Path, tmp_path: Path) -> None:
    home = str(stack.home)
    imported = bioengine("models", "import", str(state_dicts / "residual-rook"), "--home", home)
    assert imported.returncode == 0, imported.stderr
    assert "Converted residual-rook 1.0.0 from pytorch_state_dict to onnx" in imported.stdout
    assert "Weights: onnx (converted from pytorch_state_dict)" in imported.stdout
    try:
        image = np.random.default_rng().random((2, 1, 40, 56), np.float32)
        with stack.client() as client:
            result = client.run("residual-rook", [image])
            by_name = client.run("residual-rook", [image], weight_format="onnx")
            refused = client.run("residual-rook", [image], weight_format="pytorch_state_dict")
        assert result["success"] and result["weight_format"] == "onnx (converted from pytorch_state_dict)", result
        expected = torchs_own(state_dicts / "residual-rook", image, tmp_path)
        np.testing.assert_allclose(result["outputs"][0], expected, atol=1e-5)
        np.testing.assert_allclose(by_name["outputs"][0], expected, atol=1e-5)
        assert refused["code"] == "package_not_trusted"
        shown = bioengine("models", "show", "residual-rook", "--home", home).stdout
        assert "weights: onnx (converted from pytorch_state_dict)" in shown and "outputs differ by at most" in shown
        tested = bioengine("models", "test", "residual-rook", "--home", home)
        assert tested.returncode == 0 and "passed" in tested.stdout, tested.stdout
    finally:
        bioengine("models", "remove", "residual-rook", "--home", home)


def test_what_architectures_of_the_collection_import_is_there(state_dicts: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    imported = bioengine("models", "import", str(state_dicts / "timely-toad"), "--home", home)
    assert imported.returncode == 0 and "Converted timely-toad" in imported.stdout, imported.stdout + imported.stderr
    about = json.loads((tmp_path / "home" / "models" / "timely-toad" / "1.0.0" / "converted.json").read_text())
    assert {"torchvision", "timm"} <= set(about["versions"])
    refused = bioengine("models", "import", str(state_dicts / "missing-mole"), "--home", home)
    assert refused.returncode == 0 and "needs the Python module lightsheet_tools" in refused.stdout
    assert "It is not run unless you trust it" in refused.stdout
    again = bioengine("models", "convert", "--all", "--home", home)
    assert again.returncode == 1 and "lightsheet_tools" in again.stdout


def test_a_network_of_careamics_has_an_environment_of_its_own(state_dicts: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    imported = bioengine("models", "import", str(state_dicts / "caring-crow"), "--home", home)
    assert imported.returncode == 0 and "Converted caring-crow" in imported.stdout, imported.stdout + imported.stderr
    about = json.loads((tmp_path / "home" / "models" / "caring-crow" / "1.0.0" / "converted.json").read_text())
    assert "careamics" in about["versions"] and max(about["differences"]) < 1e-5


def test_a_first_request_downloads_and_converts(state_dicts: Path, tmp_path: Path) -> None:
    check_first_request(state_dicts, "spatial-snail", tmp_path / "home")
