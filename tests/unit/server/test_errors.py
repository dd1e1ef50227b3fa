"""Each error that a client can get has a code of its own, and the docs say what it means."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re

import bioengine_contract
import bioengine_server
import pytest
from bioengine_contract.errors import BioEngineError, RemoteError, RequestError, unmark
from bioengine_contract.model_errors import RunTookTooLong

from tests.stack.harness import ROOT

# Rooms whose errors reach a person at the command line alone, or the admin at the start.
_NOT_FOR_CLIENTS = ("apps", "images", "bench", "store", "control", "commands", "doctor", "demo", "slurm", "zoo")
_AT_THE_START = ("errors", "library", "settings_files", "output_file", "hypha.errors", "triton.connection")
_MESSAGES = ("hypha.envelope", "gateway.errors", "network.http_get")  # told in the libraries' own ways
_SAME_MEANING = {"model_not_found"}
_BASES = ("BioEngineError", "RequestError")


def classes() -> list[type[BioEngineError]]:
    for package in (bioengine_contract, bioengine_server):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", "bound", "reader_process")):
                importlib.import_module(module.name)
    pending, found = [BioEngineError], []
    while pending:
        kinds = [kind for kind in pending.pop().__subclasses__() if kind not in found]
        found += kinds
        pending += kinds
    return [kind for kind in found if kind is not RemoteError and kind.__module__.startswith("bioengine_")]


def of_runner() -> dict[str, dict[str, str]]:
    """What each class of the model runner's errors sets, by the class's name; its module needs the runner's environment.

    Not those of apps, of whose errors clients get the text alone.
    """
    found: dict[str, dict[str, str]] = {}
    folder = ROOT / "model_runner" / "bioengine_runner"
    for file in sorted(set(folder.rglob("*.py")) - set(folder.glob("apps/*"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                values = {
                    target.id: ast.literal_eval(line.value)
                    for line in node.body
                    if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
                    for target in line.targets
                    if isinstance(target, ast.Name)
                }
                if any(isinstance(base, ast.Name) and base.id in (*_BASES, *found) for base in node.bases):
                    found[node.name] = values
    return found


def test_every_error_of_the_runner_has_a_code_and_is_in_the_docs() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")))
    taken = {kind.code for kind in classes()} - {"library_changed"}
    seen: dict[str, str] = {}
    for name, values in of_runner().items():
        assert "code" in values, f"{name} has no code"
        assert values["code"] not in taken, f"{name} has the code of another error, {values['code']}"
        assert values["code"] == "weights_not_opened" or seen.setdefault(values["code"], name) == name, name
        assert values["code"] in listed, f"docs/errors.md does not have {values['code']} ({name})"
        assert "status" not in values, f"{name} has a status: only errors in the contract can have one"
    assert len(seen) > 10


def test_every_class_has_a_code_of_its_own() -> None:
    seen: dict[str, str] = {}
    for kind in classes():
        assert "code" in vars(kind), f"{kind.__module__}.{kind.__name__} has no code"
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code) and 400 <= kind.status < 600, kind
        assert kind.code in _SAME_MEANING or seen.setdefault(kind.code, kind.__name__) == kind.__name__, kind


def test_the_docs_list_every_code_that_clients_get() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")))
    for kind in classes():
        module = kind.__module__.removeprefix("bioengine_server.")
        if module.split(".")[0] in _NOT_FOR_CLIENTS or module in (*_AT_THE_START, *_MESSAGES):
            continue
        if kind.__name__.startswith(("BadToken", "NoSuchToken", "TokenExists", "NoAccess", "PortInUse", "TooManyHandshakes")):
            continue  # at the command line, or never by itself
        assert kind.code in listed, f"docs/errors.md does not have {kind.code} ({kind.__name__})"


@pytest.mark.parametrize("error", [RequestError("it is so"), RunTookTooLong("shark", 5), RemoteError("as it came", "odd")])
def test_an_error_survives_its_way_through_triton(error: RequestError) -> None:
    found = unmark(f"in ensemble 'x', Failed to process: {error.marked()}\n\nAt:\n  /x.py(3): execute")
    assert found is not None and (str(found), found.code, found.status) == (str(error), error.code, error.status)
