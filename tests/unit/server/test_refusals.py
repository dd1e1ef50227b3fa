"""Requests that are refused before they reach the queue: each is counted and logged, and no flood hides the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from bioengine_contract.ids import RUNNER
from bioengine_server import log_once
from bioengine_server.access.caller import OWN_USER, TOKEN_ROLE, Caller
from bioengine_server.access.errors import NoAccess, TokenNeeded, TooManyRequests
from bioengine_server.access.refusals import Refusals
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.control.callers import CallerNames
from bioengine_server.control.metrics import Metrics
from bioengine_server.control.overview import Overview
from bioengine_server.control.request_log import RequestLog
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.log_format import JsonFormatter
from bioengine_server.service.refused_calls import asked_model
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import TritonError
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.server.legacy import Connection
from tests.unit.server.test_chunks import Ends, image
from tests.unit.server.test_dispatcher import IMAGE, FakeWorker, store


class FakeTriton:
    """A fake, since no Triton is needed to have none of the models: it has only `own`, of another form than the tests send."""

    async def model_config(self, name: str, version: str = "", from_cache: bool = False) -> dict[str, Any]:
        if name != "own":
            raise TritonError(f"no model {name}", 404)
        return {"name": "own", "input": [{"name": "a", "data_type": "TYPE_FP32", "dims": ["4"]}], "output": []}


class Server:
    """The service on fakes, with what counts and logs its requests."""

    def __init__(self, home: Path, triton: FakeTriton | None = None, worker: FakeWorker | None = None, **settings: Any) -> None:
        store(home, "shark")
        self.settings = chosen = Settings(home=home, run_dir=home, offline=True, **settings)
        self.registry, self.worker = TokenRegistry(home), worker or FakeWorker()
        dispatcher = Dispatcher(chosen, self.worker, StoreService(chosen), "")
        self.access = Access(chosen, self.registry)
        self.service = TritonClient(dispatcher, cast(TritonApi, triton or FakeTriton()), self.access, "http://server")
        names = CallerNames(self.registry)
        self.overview = Overview(chosen, names, lambda: None)
        self.metrics = Metrics(chosen, names, self.overview)
        self.overview.on_end(RequestLog(names).write)
        self.overview.watch(dispatcher)

    async def execute(self, model_id: Any = "shark", image: Any = IMAGE, by: str = "", **arguments: Any) -> Any:
        """A call as an RPC client sends it; `by`: the id of its token."""
        roles = [f"{TOKEN_ROLE}{by}"] if by else []
        context = {"user": {"id": "someone", "roles": roles}, "ws": "ws", "from": "ws/client"}
        asked = {"model_name": RUNNER, "inputs": [{"model_id": model_id, "inputs": [image]}], "serialization": "imjoy"}
        return await self.service.definition()["execute"](**{**asked, **arguments}, context=context)

    def counts(self) -> dict[tuple[str, str, str], float]:
        """The ended requests, by model, outcome and token."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == "bioengine_requests_total"]
        return {tuple(sample.labels[name] for name in ("model", "outcome", "token")): sample.value for sample in samples}  # type: ignore[misc]


class Lines(logging.Handler):
    """The records of the log of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    log, handler = logging.getLogger("bioengine_server.control.request_log"), Lines()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield handler.records
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


async def test_who_has_too_many_requests_is_counted_by_name(tmp_path: Path, lines: list[Any]) -> None:
    server = Server(tmp_path)
    token = server.registry.create("ada", 1, requests=1)
    server.worker.gate = asyncio.Event()
    first = asyncio.create_task(server.execute(by=token.id))
    await asyncio.sleep(0.02)
    with pytest.raises(TooManyRequests):
        await server.execute(by=token.id)
    assert server.counts() == {("shark", "too_many_requests", "ada"): 1}
    (line,) = lines
    text = line.getMessage()
    assert text.startswith("refused ada (ws/client) shark: too_many_requests: The token 'ada' has 1 request")
    assert "task_id" not in line.fields and line.fields["outcome"] == "too_many_requests" and line.fields["token"] == "ada"
    server.worker.gate.set()
    await first
    assert server.counts()["shark", "done", "ada"] == 1


async def test_a_client_without_a_token_is_counted_where_one_is_needed(tmp_path: Path, lines: list[Any]) -> None:
    server = Server(tmp_path, access="token")
    with pytest.raises(NoAccess):
        await server.execute()
    assert server.counts() == {("shark", "token_needed", ""): 1} and len(lines) == 1


async def test_an_image_above_the_limit_is_an_answer_and_is_counted(tmp_path: Path, lines: list[Any]) -> None:
    server = Server(tmp_path, anonymous_max_request_size=10)
    answer = (await server.execute())["result"]
    assert answer["code"] == "too_large" and server.counts() == {("shark", "too_large", ""): 1} and len(lines) == 1


@pytest.mark.parametrize(
    ("arguments", "model", "expected"),
    [
        ({"colour": "red"}, "shark", RefusedArgument),
        ({"serialization": "triton"}, "shark", RefusedArgument),
        ({"inputs": "image"}, "unknown", RefusedArgument),
        ({"inputs": []}, "unknown", RefusedArgument),
        ({"inputs": [7]}, "unknown", RefusedArgument),
        ({"model_name": None}, "unknown", RefusedArgument),
        ({"model_name": ["x"]}, "unknown", RefusedArgument),
        ({"model_name": "elsewhere"}, "unknown", RefusedArgument),
        ({"model_name": "own", "inputs": ["text"], "serialization": "triton"}, "unknown", TypeError),
    ],
)
async def test_bad_arguments_are_counted_once(
    tmp_path: Path, lines: list[Any], arguments: dict[str, Any], model: str, expected: type[Exception]
) -> None:
    server = Server(tmp_path)
    with pytest.raises(expected):
        await server.execute(**arguments)
    assert server.counts() == {(model, "bad_argument", ""): 1} and len(lines) == 1 and lines[0].fields["error"]


async def test_an_unknown_model_is_counted_once(tmp_path: Path, lines: list[Any]) -> None:
    server = Server(tmp_path)
    answer = (await server.execute("missing"))["result"]
    assert server.counts() == {("unknown", answer["code"], ""): 1} and lines[0].fields["task_id"] == answer["task_id"]


async def test_what_the_server_itself_asks_is_not_counted(tmp_path: Path, lines: list[Any]) -> None:
    server = Server(tmp_path)
    assert server.access.refusals.tell(TokenNeeded(), Caller(OWN_USER, "", ""))
    assert server.counts() == {} and lines == []


async def test_an_error_that_is_met_twice_is_counted_once(tmp_path: Path, lines: list[Any]) -> None:
    server, error = Server(tmp_path), TokenNeeded()
    for _ in range(3):
        assert server.access.refusals.tell(error, Caller("someone", "ws", "client"))
    assert server.counts() == {("unknown", "token_needed", ""): 1} and len(lines) == 1


def test_where_nobody_listens_that_is_said() -> None:
    assert not Refusals().tell(TokenNeeded(), Caller("someone", "ws", "client"))


async def test_a_flood_has_few_lines_and_hides_nothing(tmp_path: Path, lines: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(log_once, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    server = Server(tmp_path)
    await server.execute("otter")
    for _ in range(500):
        with pytest.raises(RefusedArgument):
            await server.execute(colour="red")
    assert server.counts()["shark", "bad_argument", ""] == 500 and len(lines) == 11
    await server.execute("otter")
    assert len(lines) == 12, "another kind of failure still has its line"
    errors = server.overview.status()["errors"]
    assert errors[0]["code"] == errors[2]["code"] != "bad_argument" and len(errors) == 3
    assert errors[1]["task_id"] == "" and errors[0]["task_id"]
    clock[0] += 61
    with pytest.raises(RefusedArgument):
        await server.execute(colour="red")
    assert lines[-1].getMessage().endswith(" (490 more like it have no line)") and lines[-1].fields["left_out"] == 490


async def test_ids_that_do_not_exist_flood_no_log_either(tmp_path: Path, lines: list[Any]) -> None:
    server = Server(tmp_path)
    for number in range(50):
        await server.execute(f"missing-{number}")
    assert len(lines) == 10 and sum(server.counts().values()) == 50


async def test_what_a_refused_client_sends_forges_nothing(tmp_path: Path, lines: list[Any]) -> None:
    server = Server(tmp_path)
    with pytest.raises(RefusedArgument):
        arguments: dict[str, Any] = {"x\n\x1b[2J": 1}
        await server.execute("m\n2026 INFO\x1b[2J" * 1000, **arguments)
    (line,) = lines
    assert line.getMessage().isprintable() and len(line.getMessage()) < 2000
    text = JsonFormatter("bioengine_server").format(line)
    assert text.isascii() and text.isprintable() and server.counts() == {("unknown", "bad_argument", ""): 1}


def test_kinds_of_lines_are_bounded() -> None:
    few = log_once.Few()
    written = sum(few.take(f"kind {number}") is not None for number in range(10_000))
    assert written == 510, "each of the first 500, and ten of all others together"


def test_the_model_is_found_in_whatever_was_sent() -> None:
    assert asked_model({"model_name": RUNNER, "inputs": ({"model_id": "shark"},)}) == "shark"
    assert asked_model({"model_name": "own"}) == "own"
    for arguments in ({}, {"model_name": 3}, {"model_name": RUNNER, "inputs": [{"model_id": 7}]}, {"model_name": RUNNER}):
        assert asked_model(arguments) == ""
    for name in (np.zeros(2), np.array([RUNNER, RUNNER]), [np.zeros(2)], {"a": 1}, b"\xff"):
        assert asked_model({"model_name": name, "inputs": [{"model_id": name}]}) == ""


async def test_messages_in_chunks_that_are_too_large_are_told_of() -> None:
    told: list[tuple[str, str, str]] = []
    refusals = Refusals()
    refusals.listen(lambda error, caller, model: told.append((type(error).__name__, caller.user, caller.client)))
    ends = Ends(limit=1_000_000, refusals=refusals)
    with pytest.raises(Exception, match="at most 1 MB"):
        await (await ends.service()).size(image(4))
    await ends.end()
    assert told == [("TooLarge", "ada", "client")]


async def test_the_same_of_legacy_clients() -> None:
    told: list[str] = []
    connection = Connection(lambda error: told.append(type(error).__name__))
    with pytest.raises(Exception, match="at most 10 MB"):
        await (await connection.manager()).echo(image(20))
    await connection.end_all()
    assert told == ["TooLarge"]
