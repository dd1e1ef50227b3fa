"""Each error that a client can get has a code of its own, and the docs say what it means."""

from __future__ import annotations

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
