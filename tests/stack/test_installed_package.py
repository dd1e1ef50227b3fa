"""The wheels, installed in an environment of their own outside of the checkout: `bioengine` works from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from bioengine_contract.version import VERSION
from bioengine_server.environments import built_for
from bioengine_server.store.names import SHIPPED_PACKAGES

from tests.stack.harness import ENVIRONMENTS, ROOT, Stack, get, python

pytestmark = pytest.mark.extended

DISTRIBUTIONS = {"contract": "bioengine_contract", "server": "bioengine_server", "model_runner": "bioengine_runner"}
ENVIRONMENT_NAMES = ("server", "runner", "triton")
_SITE_PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution, as `pip wheel` builds it; of a copy, since building leaves files beside the sources."""
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheels")
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listing.stdout.splitlines():
        if name.split("/")[0] in (*DISTRIBUTIONS, "deploy", "LICENSE") or name.startswith("tests/clients/requirements-"):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    pip = [python("server"), "-I", "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(folder), *(f"./{name}" for name in DISTRIBUTIONS)], cwd=checkout, check=True)
    return {name: next(folder.glob(f"{package}-*.whl")) for name, package in DISTRIBUTIONS.items()}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(file.read(name))


@dataclass(frozen=True)
class Installation:
    """`program`: the command `bioengine`. `environments`: those that it would build, taken over from the checkout."""

    folder: Path
    program: Path
    environments: Path

    @classmethod
    def make(cls, folder: Path, wheels: dict[str, Path]) -> Installation:
        subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        own = folder / "venv" / "bin" / "python"
        packages = folder / "venv" / _SITE_PACKAGES
        # The dependencies, but for imjoy-rpc, are those of the checkout; the project itself is not.
        for entry in (ENVIRONMENTS / "server" / _SITE_PACKAGES).resolve().iterdir():
            if not entry.name.startswith("imjoy_rpc") and entry.name != "bioengine.pth" and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
        pip = [python("server"), "-I", "-m", "pip", "--python", str(own), "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, str(wheels["contract"]), str(wheels["server"])], check=True)
        installation = cls(folder, own.with_name("bioengine"), folder / "environments")
        installation._take_over(own)
        return installation

    def _take_over(self, own: Path) -> None:
        """Have what the installed command would build, without the time and the network that it takes."""
        code = (
            "import json, sys; sys.path.insert(0, sys.argv[1]); import environments; found = environments.catalogue(sys.argv[2]);"
            "print(json.dumps({n: [found[n].digest(), [str(p) for p in found[n].project]] for n in sys.argv[3:]}))"
        )
        deploy = own.parents[1] / _SITE_PACKAGES / "bioengine_server" / "checkout" / "deploy"
        accelerator = built_for(ENVIRONMENTS, "runner")
        asked = subprocess.run(
            [str(own), "-I", "-c", code, str(deploy), accelerator, *ENVIRONMENT_NAMES], capture_output=True, text=True, check=True
        )
        for name, (digest, project) in json.loads(asked.stdout).items():
            place = self.environments / f"{name}-{digest[:12]}"
            if name == "server":
                for entry in (ENVIRONMENTS / name).glob(f"{_SITE_PACKAGES}/imjoy_rpc*"):
                    shutil.copytree(entry, place / _SITE_PACKAGES / entry.name)
            else:
                shutil.copytree((ENVIRONMENTS / name).resolve(), place, symlinks=True, copy_function=_linked)
            if project:
                (place / _SITE_PACKAGES / "bioengine.pth").unlink()
                (place / _SITE_PACKAGES / "bioengine.pth").write_text("".join(f"{path}\n" for path in project))
            (place / "built").unlink(missing_ok=True)
            (place / "built").write_text(json.dumps({"built for": accelerator}))
            (self.environments / name).symlink_to(place.name)


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target


@pytest.fixture(scope="module")
def installation(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.make(tmp_path_factory.mktemp("installed"), wheels)


def test_the_wheels_have_the_version_and_their_dependencies(wheels: dict[str, Path]) -> None:
    of = {name: metadata(wheel) for name, wheel in wheels.items()}
    assert {document["Version"] for document in of.values()} == {VERSION}
    for name in ("server", "model_runner"):
        required = of[name].get_all("Requires-Dist") or []
        assert f"bioengine-contract=={VERSION}" in required
        wanted = [line.partition("#")[0].strip() for line in (ROOT / name / "requirements.txt").read_text().splitlines()]
        assert len(required) > len([line for line in wanted if line]), "each of its lines, and the contract"
    assert of["model_runner"].get_all("Provides-Extra") == ["cpu", "cuda"]


def test_the_runners_wheel_has_the_model_repository(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["model_runner"]) as file:
        names = {name for name in file.namelist() if "model_repository" in name}
    folder = "bioengine_runner/model_repository/bioengine-model-runner"
    assert names == {f"{folder}/config.pbtxt", f"{folder}/1/model.py"}


@pytest.mark.parametrize(("environment", "package"), [("venv", "bioengine_server"), ("environments/runner", "bioengine_runner")])
def test_nothing_of_the_checkout_is_used(installation: Installation, environment: str, package: str) -> None:
    own = installation.folder / environment / "bin" / "python"
    code = f"import bioengine_contract, {package}; print(bioengine_contract.__file__, {package}.__file__)"
    done = subprocess.run([str(own), "-I", "-c", code], capture_output=True, text=True, check=True)
    assert all(Path(file).is_relative_to(installation.folder / "venv") for file in done.stdout.split())


def test_the_version_needs_no_environment(installation: Installation, tmp_path: Path) -> None:
    variables = {**os.environ, "BIOENGINE_ENVIRONMENTS": str(tmp_path / "environments")}
    done = subprocess.run([str(installation.program), "--version"], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == f"bioengine {VERSION}\n"
    assert not (tmp_path / "environments").exists()


def test_the_installed_command_serves_models_with_nothing_of_the_checkout(installation: Installation) -> None:
    stack = Stack(
        installation.folder / "home",
        program=[str(installation.program)],
        BIOENGINE_ENVIRONMENTS=str(installation.environments),
        BIOENGINE_ACCELERATOR=built_for(ENVIRONMENTS, "runner"),
    )
    with stack:
        assert get(f"{stack.url}/health/readiness")[1] == {"status": "OK", "version": VERSION, "workers": 1}
        package = SHIPPED_PACKAGES / "drawn-nuclei"
        with stack.client() as client:
            result = client.run("drawn-nuclei", [np.load(package / "test_input.npy")])
            assert client.triton.get_status()["models"][0]["name"] == "drawn-nuclei"
        assert result["success"], result
        np.testing.assert_allclose(result["outputs"][0], np.load(package / "test_output.npy"), atol=1e-3)
        stack.stop(signal.SIGINT)
        assert stack.leftovers() == []
    assert "Stopped." in stack.log and "[1/" not in stack.log, "nothing was built"
