"""How environments are built: which libraries of torch, and what is said when a step fails. pip is real, its packages are not."""

from __future__ import annotations

import re
import zipfile
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.stack.harness import ROOT
from tests.unit.server.test_environments import deploy

__all__ = ["deploy"]


def wheel(folder: Path, name: str, version: str, needs: str = "") -> Path:
    """A package without any content."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    record, metadata = f"{name}-{version}.dist-info", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{record}/METADATA", metadata + (f"Requires-Dist: {needs}\n" if needs else ""))
        archive.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{record}/RECORD", "")
    return file


@pytest.mark.extended
@pytest.mark.parametrize(
    ("needs", "is_for_cuda"),
    [("nvidia-cudnn==9.20; platform_system == 'Linux'", True), ("sympy", False)],
)
def test_cudas_libraries_come_with_a_torch_that_needs_them(
    deploy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: str, is_for_cuda: bool
) -> None:
    """pip takes torch's build for CUDA where nobody told it of another; that build cannot be imported without them."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "torch", "2.13.0", needs)
    library = wheel(wheels, "nvidia_cudnn", "9.20")
    (tmp_path / "torch.txt").write_text("torch==2.13.0\n")
    lock = tmp_path / "cuda.lock"
    lock.write_text(f"nvidia-cudnn==9.20 --hash=sha256:{sha256(library.read_bytes()).hexdigest()}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(deploy.recipes, "ROOT", tmp_path)
    build = deploy.recipes.virtual_environment(tmp_path / "torch.txt", if_torch_needs_cuda=lock)
    told = list(build(tmp_path / "environment"))
    installed = {folder.name.partition("-")[0] for folder in (tmp_path / "environment").glob("lib/*/site-packages/*.dist-info")}
    assert "torch" in installed and ("nvidia_cudnn" in installed) == is_for_cuda
    assert any("pip found no build for the CPU alone" in line for line in told) == is_for_cuda


@pytest.mark.parametrize(
    ("printed", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "Free some space"),
        ("ERROR: Could not install packages due to an OSError: [Errno 122] Disk quota exceeded", "Free some of your quota"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "pip cache purge"),
        ("ImportError: libgomp.so.1: cannot open shared object file: No such file or directory", "a library of the system"),
        ("The virtual environment was not created successfully because ensurepip is not available.", "python3.11-venv"),
        ("ERROR: Could not find a version that satisfies the requirement torch", "Check the network"),
    ],
)
def test_a_step_that_fails_says_what_to_do(deploy: SimpleNamespace, printed: str, advice: str) -> None:
    with pytest.raises(deploy.steps.BuildFailed) as failure:
        deploy.steps.run(["sh", "-c", 'echo "$0"; exit 1', printed])
    assert printed in str(failure.value) and advice in str(failure.value).splitlines()[-1]
    assert ("network" in str(failure.value)) == (advice == "Check the network")


def test_packages_that_cannot_be_imported_are_not_the_networks_fault(deploy: SimpleNamespace, tmp_path: Path) -> None:
    build = deploy.recipes.virtual_environment(imports="a_module_that_is_not_there")
    with pytest.raises(deploy.steps.BuildFailed, match="they do not work here") as failure:
        list(build(tmp_path / "environment"))
    assert "No module named 'a_module_that_is_not_there'" in str(failure.value) and "network" not in str(failure.value)


def test_pins_that_belong_together() -> None:
    """What both sides have to agree on, and what is named in more than one file."""

    def named(pattern: str, *files: str) -> set[str]:
        found = [re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE) for file in files]
        assert all(found), files
        return {version for versions in found for version in versions}

    locks = ("server/requirements.lock", "model_runner/requirements-cpu.lock", "model_runner/requirements-cuda.lock")
    assert len(named(r"^bioimageio-spec==(\S+)", *locks)) == 1
    assert len(named(r"^torch==(\S+)", "model_runner/requirements-torch.txt", "model_runner/requirements-cuda.txt")) == 1
    places = ("model_runner/Dockerfile", "docker-compose.yml", ".env.example")
    assert len(named(r"TRITON_IMAGE(?:=|:-)(nvcr\.io[^\s}]+)", *places)) == 1
    assert len(named(r"BASE_IMAGE=(python:[^\s@]+)", "server/Dockerfile", "deploy/caddy/Dockerfile", "docs/developers.md")) == 1
