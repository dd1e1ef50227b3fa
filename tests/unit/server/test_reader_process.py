"""What the process that reads other people's descriptions answers, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any

import pytest
from bioengine_server.store import reader_process
from bioengine_server.store.description import Invalid, TooNew
from bioengine_server.store.external_data import BadWeights
from bioengine_server.store.reader_process import look_up, search_listing

ITEMS: list[Any] = [
    {"type": "model", "alias": "affable-shark", "manifest": {"name": "Nuclei", "description": "of the Broad's"}},
    {"nickname": "10.5281/zenodo.1/loyal-parrot", "name": "Cells", "description": "with nuclei"},
    {"type": "dataset", "id": "nuclei-images", "name": "Nuclei"},
    {"id": "bare", "name": None, "tags": ["nuclei"]},
    "nuclei",
]
SHARK = {"id": "affable-shark", "name": "Nuclei", "description": "of the Broad's"}
PARROT = {"id": "loyal-parrot", "name": "Cells", "description": "with nuclei"}
BARE = {"id": "bare", "name": "", "description": ""}


@pytest.mark.parametrize("listing", [ITEMS, {"items": ITEMS}, {"collection": ITEMS}])
def test_a_listing_is_searched_for_models_that_have_every_word(listing: Any) -> None:
    content = json.dumps(listing).encode()
    assert search_listing(content, []) == search_listing(content, ["NUCLEI"]) == [SHARK, PARROT, BARE]
    assert search_listing(content, ["nuclei", "broad"]) == [SHARK]
    assert search_listing(content, ["mitochondria"]) == []


@pytest.mark.parametrize("listing", [None, 3, {"items": {"a": 1}}, {"items": None}])
def test_a_listing_of_another_shape_has_no_models(listing: Any) -> None:
    assert search_listing(json.dumps(listing).encode(), []) == []


def test_an_id_map_is_looked_up_for_text_alone() -> None:
    document = {"a": "https://a/rdf.yaml", "b": {"source": "https://b/rdf.yaml"}, "c": {"source": 3}, "d": None}
    found = look_up(json.dumps(document).encode(), ["a", "b", "c", "d", "e"])
    assert found == {"a": "https://a/rdf.yaml", "b": "https://b/rdf.yaml"}
    assert look_up(b"[1]", ["a"]) == {}


def answer(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> dict[str, Any]:
    """What is answered where an operation gives `outcome`, or raises it."""

    def operation(content: bytes) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setitem(reader_process._OPERATIONS, "tried", (operation, 1))
    decoded: dict[str, Any] = json.loads(reader_process._answer("tried", b"", {}))
    return decoded


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"µm": 1}, {"result": {"µm": 1}}),
        (Invalid("inputs: missing"), {"invalid": "inputs: missing"}),
        (TooNew("format 0.9"), {"too_new": "format 0.9"}),
        (BadWeights("no ONNX"), {"bad_weights": "no ONNX"}),
        (MemoryError(), {"unreadable": "reading it takes too much memory"}),
        (ValueError("with a secret"), {"unreadable": "it cannot be read (ValueError)"}),
        ("\ud800", {"unreadable": "it cannot be read (UnicodeEncodeError)"}),
    ],
)
def test_an_answer_has_the_result_or_one_reason(monkeypatch: pytest.MonkeyPatch, outcome: Any, expected: dict[str, Any]) -> None:
    assert answer(monkeypatch, outcome) == expected


def test_an_answer_without_bounds_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_process, "_MAX_ANSWER", 100)
    assert answer(monkeypatch, "x" * 80) == {"result": "x" * 80}
    assert answer(monkeypatch, "x" * 100) == {"unreadable": "its content is too large"}


def test_content_that_is_no_description_is_said_to_be_none() -> None:
    assert json.loads(reader_process._answer("read_raw", b"type: model\nname: x", {})) == {
        "result": {"type": "model", "name": "x"}
    }
    assert "describes a dataset" in json.loads(reader_process._answer("read_raw", b"type: dataset", {}))["unreadable"]


@pytest.fixture
def reader() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-I", "-m", reader_process.__name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def ask(reader: subprocess.Popen[bytes], operation: str, content: bytes, **arguments: Any) -> Any:
    requests: IO[bytes] | None = reader.stdin
    answers: IO[bytes] | None = reader.stdout
    assert requests is not None and answers is not None
    requests.write(json.dumps({"operation": operation, "size": len(content), **arguments}).encode() + b"\n" + content)
    requests.flush()
    return json.loads(answers.read(int(answers.readline() or 0)) or "null")


def test_one_process_answers_many_and_ends_with_its_parent(reader: subprocess.Popen[bytes]) -> None:
    assert ask(reader, "read_raw", b"type: model") == {"result": {"type": "model"}}
    assert ask(reader, "look_up", b'{"a": "https://a"}', ids=["a"]) == {"result": {"a": "https://a"}}
    assert "unreadable" in ask(reader, "look_up", b"{", ids=["a"])
    reader.communicate()
    assert reader.returncode == 0


def test_it_ends_where_what_it_read_brought_its_fork_down(reader: subprocess.Popen[bytes]) -> None:
    """Its parent starts another (`bioengine_server.store.reader`)."""
    assert ask(reader, "no such operation", b"") is None
    assert reader.wait(10) == 1
