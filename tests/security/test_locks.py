"""The lock files: each has all that its sources ask for, with hashes, and nothing of the machine that it was made on."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.stack.harness import ROOT, python

PYTHONS = ("3.11.9", "3.12.9")


def deploy(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


LOCK = deploy("lock")
LOCKS = {str(lock.file.relative_to(ROOT)): lock for lock in LOCK.LOCKS}


def requirements(source: Path) -> list[Requirement]:
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in source.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def entries(file: Path) -> list[tuple[Requirement, list[str]]]:
    """The packages of a lock file, each with its hashes."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in filter(None, text.splitlines()):
        hashes = re.findall(r"--hash=(\S+)", line)
        found.append((Requirement(re.sub(r"--hash=\S+", "", line).strip()), hashes))
    return found


def versions(file: Path, python_version: str) -> dict[str, str]:
    """What a lock file installs under a Python."""
    environment = {"python_full_version": python_version, "python_version": python_version.rpartition(".")[0]}
    found: dict[str, str] = {}
    for requirement, _ in entries(file):
        if requirement.marker is None or Marker(str(requirement.marker)).evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"two versions of {name}"
            found[name] = next(iter(requirement.specifier)).version
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_has_an_exact_version_and_hashes(name: str) -> None:
    found = entries(LOCKS[name].file)
    assert found
    for requirement, hashes in found:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement
        assert requirement.url is None


@pytest.mark.parametrize("python_version", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_its_sources_ask_for(name: str, python_version: str) -> None:
    lock = LOCKS[name]
    found = versions(lock.file, python_version)
    for source in lock.sources:
        for requirement in requirements(source):
            wanted = canonicalize_name(requirement.name)
            if wanted in lock.not_in_it():
                assert wanted not in found
            else:
                assert requirement.specifier.contains(found[wanted], prereleases=True), f"{requirement}: run deploy/lock.py"
    if lock.base is not None:
        needed = {name: found for name, found in versions(lock.base, python_version).items() if name not in lock.not_in_it()}
        assert needed.items() <= found.items(), "what is tested is what is in the images"


def test_every_source_has_a_lock() -> None:
    listed = {source for lock in LOCK.LOCKS for source in lock.sources}
    there = {file for folder in ("server", "model_runner", "deploy", "tests/clients") for file in (ROOT / folder).glob("*.txt")}
    assert there - listed == {ROOT / "model_runner" / "requirements-torch.txt"}
    locks = {file for folder in ("server", "model_runner", "deploy", "tests/clients") for file in (ROOT / folder).glob("*.lock")}
    assert locks == {lock.file for lock in LOCK.LOCKS}


@pytest.mark.parametrize("python_version", PYTHONS)
@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_a_package_is_in_the_model_runners_environment_or_in_one_on_top_of_it(accelerator: str, python_version: str) -> None:
    base, on_top = (
        versions(ROOT / "model_runner" / f"requirements-{name}.lock", python_version) for name in (accelerator, "labels")
    )
    assert not base.keys() & on_top.keys()


def test_torch_is_one_exact_version() -> None:
    (torch,) = requirements(ROOT / "model_runner" / "requirements-torch.txt")
    (again,) = [each for each in requirements(ROOT / "model_runner" / "requirements-cuda.txt") if each.name == "torch"]
    assert str(torch.specifier).startswith("==") and torch.specifier == again.specifier


def test_what_the_cpu_build_of_torch_needs_is_locked() -> None:
    """By what the build itself says, as it is installed here."""
    code = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('torch')))"
    run = subprocess.run([python("runner"), "-c", code], capture_output=True, text=True, check=True)
    found = versions(ROOT / "model_runner" / "requirements-cpu.lock", PYTHONS[0])
    for line in json.loads(run.stdout):
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            if name.startswith(("nvidia-", "cuda-")) or name == "triton":
                continue  # the build with CUDA, which a machine without GPU has where pip found no other
            assert requirement.specifier.contains(found[name], prereleases=True), line


@pytest.mark.parametrize("name", ["hypha", "hypha-rpc", "imjoy-rpc"])
def test_libraries_whose_private_names_are_used_are_pinned_exactly(name: str) -> None:
    sources = [ROOT / "server" / f"requirements{part}.txt" for part in ("", "-no-deps")]
    (found,) = [each for source in sources for each in requirements(source) if each.name == name]
    assert str(found.specifier).startswith("==")


def test_lock_files_name_no_machine() -> None:
    for file in (*(lock.file for lock in LOCK.LOCKS), LOCK.JAVASCRIPT / "package-lock.json"):
        text = re.sub(r'"(url|funding|homepage|license)": [^\n]*', "", file.read_text())
        assert not re.search(r"://|--index|--extra|--find-links|--trusted|@ ?file|/root/|/home/|/tmp/|/opt/", text), file


def test_javascript_packages_have_exact_versions_and_hashes() -> None:
    packages = json.loads((LOCK.JAVASCRIPT / "package-lock.json").read_text())["packages"]
    own = json.loads((LOCK.JAVASCRIPT / "package.json").read_text())["dependencies"]
    assert packages.pop("")["dependencies"] == own
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-") and re.fullmatch(r"\d+\.\d+\.\d+\S*", package["version"]), name
    for name, wanted in own.items():
        assert packages[f"node_modules/{name}"]["version"] == wanted.rpartition("@")[2]


@pytest.mark.parametrize(
    ("environment", "file"),
    [
        ("server", "server/requirements-test.lock"),
        ("server", "server/requirements-no-deps.lock"),
        ("client-hypha", "tests/clients/requirements-hypha.lock"),
    ],
)
def test_what_is_installed_is_what_is_locked(environment: str, file: str) -> None:
    code = (
        "import importlib.metadata, json, sys;"
        "print(json.dumps([sys.version.split()[0], {each.name: each.version for each in importlib.metadata.distributions()}]))"
    )
    run = subprocess.run([python(environment), "-c", code], capture_output=True, text=True, check=True)
    python_version, names = json.loads(run.stdout)
    installed = {canonicalize_name(name): version for name, version in names.items()}
    assert versions(ROOT / file, python_version).items() <= installed.items()


def test_environments_and_images_are_installed_by_their_hashes() -> None:
    """And from wheels alone: a source distribution would be built with whatever it asks for."""
    environments = deploy("environments")
    command = environments.recipes.pip_install(["python"], ROOT / "server" / "requirements.lock")
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(command)
    for environment in environments.catalogue().values():
        unlocked = {source.name for source in environment.sources if source.suffix == ".txt"}
        assert unlocked <= {"requirements-torch.txt"}, environment.name
    for dockerfile in ("server/Dockerfile", "model_runner/Dockerfile"):
        installed = re.findall(r"\$pip (.*?-r \S+)", (ROOT / dockerfile).read_text())
        assert installed
        for arguments in installed:
            assert "--require-hashes" in arguments or arguments.endswith("/requirements-torch.txt"), arguments
    assert environments.recipes.NEEDS_CUDA in (ROOT / "model_runner" / "Dockerfile").read_text(), "both ask torch in the same way"
