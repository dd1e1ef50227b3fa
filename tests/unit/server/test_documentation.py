"""The docs name every setting, and the project speaks of itself alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from bioengine_contract.weights import CONVERTIBLE, RUNNABLE
from bioengine_server.settings import Settings
from bioimageio.spec.model.v0_5 import WeightsDescr

ROOT = Path(__file__).resolve().parents[3]
RUNNER_SETTINGS = ROOT / "model_runner" / "bioengine_runner" / "settings.py"


def server_settings() -> list[str]:
    return [f"BIOENGINE_{name.upper()}" for name in Settings.model_fields]


def runner_settings() -> list[str]:
    fields = re.findall(r"^    (\w+): ", RUNNER_SETTINGS.read_text(), flags=re.MULTILINE)
    return [f"BIOENGINE_{name.upper()}" for name in fields]


@pytest.mark.parametrize("name", sorted({*server_settings(), *runner_settings()}))
def test_every_setting_is_in_the_docs(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "settings.md").read_text()


@pytest.mark.parametrize("name", server_settings())
def test_every_setting_of_the_server_is_in_the_example(name: str) -> None:
    assert re.search(rf"^#?{name}=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)


# What the compose file fixes, or leaves to the side that it concerns.
NOT_IN_CONTAINERS = {
    "BIOENGINE_HOME",
    "BIOENGINE_RUN_DIR",
    "BIOENGINE_LISTEN",
    "BIOENGINE_ENVIRONMENTS",
    "BIOENGINE_TRITON_SECRET",
    "BIOENGINE_TRITON_PORT",
    "BIOENGINE_STORE",
    "BIOENGINE_SERVER_URL",
    "BIOENGINE_WORKER_NAME",
    "BIOENGINE_WORKER_TOKEN_FILE",
}


@pytest.mark.parametrize("name", sorted({*server_settings()} - NOT_IN_CONTAINERS))
def test_every_setting_of_the_server_reaches_its_container(name: str) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert name in compose["services"]["server"]["environment"]


def test_every_setting_of_both_sides_reaches_triton() -> None:
    """The server's own Triton, that of a container, and a worker's, unless another part decides."""
    both = {name.removeprefix("BIOENGINE_") for name in {*server_settings()} & {*runner_settings()}}
    process = (ROOT / "server" / "bioengine_server" / "triton" / "process.py").read_text()
    passed = set(re.findall(r'^            "([A-Z_]+)": ', process, re.MULTILINE))
    assert both - passed == {"TRITON_SECRET_FILE"}  # it gets the secret itself
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    of_image = {"RUN_DIR", "STORE", "TRITON_MODELS", "TRITON_SECRET"}
    # Of a worker: the process beside its Triton passes them, and the server says which packages are trusted.
    of_worker = {"SHARED_TENSORS", "TRITON_SECRET_FILE", "TRUSTED_MODELS"}
    for service, decided in (("triton", of_image), ("worker", of_image | of_worker)):
        assert {f"BIOENGINE_{name}" for name in both - decided} <= {*services[service]["environment"]}, service


def test_every_variable_of_the_compose_file_is_in_the_docs_and_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    names = {a or b for a, b in re.findall(r"\$\{(\w+)|^ +([A-Z]\w+):$", text, re.MULTILINE)}
    assert "PIP_INDEX_URL" in names and "TRITON_IMAGE" in names
    for name in names:
        assert f"`{name}`" in (ROOT / "docs" / "settings.md").read_text(), name
        assert re.search(rf"^#?{name}=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE), name


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is(name: str) -> None:
    assert Settings.model_fields[name].description


def test_every_weight_format_is_in_the_docs() -> None:
    """What becomes of it, for each that bioimageio.spec knows, and which of them clients may name."""
    formats = re.search(r"^## Weight formats\n(.*?)^## ", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE | re.DOTALL)
    row = re.search(r"^\| `weight_format` \|.*", (ROOT / "docs" / "users.md").read_text(), re.MULTILINE)
    assert formats is not None and row is not None
    for name in {*RUNNABLE, *CONVERTIBLE, *WeightsDescr.model_fields}:
        assert re.search(rf"^\|.*`{name}`.*\|", formats[1], re.MULTILINE), name
    for name in RUNNABLE:
        assert f'`"{name}"`' in row[0], name


def test_links_between_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_file_that_the_recipes_name_is_there() -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 40
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "server" / "bioengine_server" / name).is_dir(), name


def test_the_hooks_are_commands_of_the_project() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    assert [hook["entry"] for hook in repositories[0]["hooks"]] == ["./bioengine test --checks", "./bioengine test"]


def test_files_are_of_a_readable_length() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert files
    for file in files:
        assert len((ROOT / file).read_text().splitlines()) <= 400, file


def test_every_test_that_the_threats_name_is_there() -> None:
    rows = [line for line in (ROOT / "docs" / "threats.md").read_text().splitlines() if line.startswith("| ") and "test" in line]
    found = 0
    for row in rows:
        file = None
        for name in re.findall(r"`([^`]+)`", row.split("|")[3]):
            path, _, test = name.partition("::")
            if path:
                file = ROOT / (path if path.startswith("tests/") else f"tests/security/{path}")
                assert file.is_file(), name
            if test:
                assert file is not None and re.search(rf"^(async )?def {test}\(", file.read_text(), re.MULTILINE), name
            found += 1
    assert found > 60
