"""The sandbox in which code of packages runs when their weights are converted: nothing that a hostile package tries succeeds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bioengine_server.settings import Settings
from bioengine_server.store import conversion_run
from bioengine_server.store.conversion import convert, refusal
from bioengine_server.store.conversion_run import NotConverted, run_step
from bioengine_server.store.model_store import ModelStore, StoredModel

from tests.conversion import converting_settings
from tests.packages import architectures
from tests.stack.harness import ROOT, python

CODE = "architecture.py"
CANARY = "of-the-users-environment-and-nobody-elses"
FORMAT = "pytorch_state_dict"

Stored = Callable[[str, str], StoredModel]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return converting_settings(tmp_path)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a network with one convolution."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "code.py").write_text(architectures.small())
    command = [python("runner"), "-m", "tests.packages.state_dicts", str(folder), "plain-pike", "code.py", "code.py"]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "plain-pike"


@pytest.fixture
def stored(network: Path, settings: Settings, tmp_path: Path) -> Stored:
    """Store a package with this id and architecture file, and the weights of that network."""

    def store(id: str, code: str) -> StoredModel:
        package = shutil.copytree(network, tmp_path / id)
        (package / CODE).write_text(code)
        rdf = (network / "rdf.yaml").read_text().replace("plain-pike", id)
        old, new = (hashlib.sha256((folder / CODE).read_bytes()).hexdigest() for folder in (network, package))
        assert rdf.count(old) == 1
        (package / "rdf.yaml").write_text(rdf.replace(old, new))
        return ModelStore(settings.store).import_package(package, replace=True)

    return store


def test_nothing_that_a_package_tries_succeeds(
    settings: Settings, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    secret = tmp_path / "secret"
    secret.write_text("4711")
    source = (ROOT / "tests" / "security" / "converted_intruder.py").read_text()
    other = stored("other-owl", architectures.small()).folder
    place = settings.store / "intruding-imp" / "1.0.0"
    places = json.dumps([str(secret), str(place), str(other / "weights.pt")])
    model = stored("intruding-imp", source.replace('PLACES = "[]"', f"PLACES = {places!r}"))
    given, output = tmp_path / "given", tmp_path / "output"
    for folder in (given, output):
        folder.mkdir()
    before = {file: file.read_bytes() for file in model.folder.rglob("*") if file.is_file()}
    run_step("intruding-imp", FORMAT, Path(python("runner")), model.folder, given, output)
    found = json.loads((output / "tries.json").read_text())
    outcomes: dict[str, str] = found["tries"]
    assert len(outcomes) > 60
    assert {name for name, outcome in outcomes.items() if outcome == "done"} == set(), outcomes
    expected = {"clone3": "ENOSYS", "make a file of 1 TB": "EFBIG", "open 2000 files": "EMFILE"}
    assert expected.items() <= outcomes.items()
    assert found["in a thread"] == {"fork": "trapped", "socket": "trapped"}
    assert CANARY not in json.dumps(found["environment"]) and "PATH" not in found["environment"]
    assert {file: file.read_bytes() for file in model.folder.rglob("*") if file.is_file()} == before
    assert secret.read_text() == "4711" and not Path("/tmp/made-by-an-intruder").exists()
    assert (output / "converted.onnx").is_file(), "its network was converted all the same"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            architectures.small("import socket\nsocket.create_connection(('127.0.0.1', 9520))"),
            "its code made the system call socket, which the sandbox refuses",
        ),
        (architectures.small("import os", forward="os.fork()"), "its code made the system call (clone|fork), which the sandbox"),
        (architectures.small("import os", forward="os.system('id')"), "its code tried to start a program, or made another"),
    ],
)
def test_the_call_that_it_tried_is_the_reason(settings: Settings, stored: Stored, code: str, reason: str) -> None:
    model = stored("calling-cat", code)
    with pytest.raises(NotConverted, match=reason):
        convert(model, ModelStore(settings.store), settings)
    assert "the sandbox refuses" in str(refusal(model))
    assert not (model.folder / "converted.onnx").exists()


def test_a_file_that_it_may_not_open_is_the_reason(settings: Settings, stored: Stored) -> None:
    model = stored("reading-rat", architectures.small("open('/etc/shadow').read()"))
    with pytest.raises(NotConverted, match="Permission denied"):
        convert(model, ModelStore(settings.store), settings)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        ("while True: pass", r"it took more than 5 s"),
        ("[torch.ones(1 << 28) for _ in range(1000)]", "it needs more memory than the 1.1 GB"),
        ("import os\n[open(f'{n}', 'w').close() for n in range(5000)]\nwhile True: pass", "its code wrote more than 2000 files"),
        ("import os\nos._exit(0)", "its process ended with the status 0"),
        ("import os\nos.abort()", "its process ended with the status -6"),
    ],
)
def test_what_never_ends_is_ended(
    settings: Settings, stored: Stored, monkeypatch: pytest.MonkeyPatch, forward: str, reason: str
) -> None:
    monkeypatch.setattr(conversion_run, "_SECONDS", 5 if reason.startswith("it took") else 60)
    monkeypatch.setattr(conversion_run, "_MAX_MEMORY", 1 << 30)
    model = stored("endless-eel", architectures.small(forward=forward))
    with pytest.raises(NotConverted, match=reason):
        convert(model, ModelStore(settings.store), settings)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        ("import atexit, os\natexit.register(lambda: (os.unlink('converted.onnx'), os.mkdir('converted.onnx')))", "as a file"),
        ("import atexit\natexit.register(lambda: open('report.json', 'w').write('[' * 90000))", "has replaced the report"),
        ("import atexit\natexit.register(lambda: open('eager-0-0.npy', 'w').write('x'))", "something else than the output eager"),
    ],
)
def test_what_it_leaves_in_place_of_the_results_is_refused(settings: Settings, stored: Stored, forward: str, reason: str) -> None:
    model = stored("forging-fox", architectures.small(forward=forward))
    with pytest.raises(NotConverted, match=reason):
        convert(model, ModelStore(settings.store), settings)


def test_without_landlock_nothing_is_converted(settings: Settings, tmp_path: Path) -> None:
    """In place of a kernel without it: a report of the first step that says so, as `bioengine_runner.conversion.start` does."""
    program = tmp_path / "python"
    report = {"outcome": "no sandbox", "detail": "seccomp", "versions": {}, "remarks": []}
    program.write_text(f"#!/bin/sh\necho '{json.dumps(report)}' > \"$7/report.json\"\n")
    program.chmod(0o700)
    with pytest.raises(NotConverted, match=r"this machine's kernel has seccomp, but the sandbox .* needs Landlock"):
        run_step("old-otter", FORMAT, program, tmp_path, tmp_path, tmp_path)


def test_links_that_a_step_leaves_are_not_followed(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "eager-0-0.npy")
    with pytest.raises(NotConverted, match="something else than the output"):
        conversion_run.read_array("old-otter", tmp_path / "eager-0-0.npy")
