"""The server's log: a line for each request, its two forms, its file, and how `bioengine logs` reads it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bioengine_contract.errors import RemoteError
from bioengine_server.access.caller import OWN_USER, Caller
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.commands import operations
from bioengine_server.control.callers import CallerNames
from bioengine_server.control.logs import LogReader
from bioengine_server.control.overview import Overview
from bioengine_server.control.request_log import RequestLog
from bioengine_server.dispatch.dispatcher import Call, Dispatcher
from bioengine_server.dispatch.progress import Progress
from bioengine_server.log_file import LogFile, logged_to
from bioengine_server.log_format import JsonFormatter, formatter
from bioengine_server.settings import Settings

from tests.unit.server.test_dispatcher import Make, call, make, run

__all__ = ["make"]

TEXT = logging.Formatter("%(message)s")


def log_requests(home: Path, dispatcher: Dispatcher) -> None:
    names = CallerNames(TokenRegistry(home))
    overview = Overview(Settings(home=home), names, lambda: None)
    overview.on_end(RequestLog(names).write)
    overview.watch(dispatcher)


def requests_of(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name.endswith("request_log")]


async def test_a_request_is_one_line(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    token = TokenRegistry(tmp_path).create("ada", 1)
    dispatcher, worker = make()
    log_requests(tmp_path, dispatcher)
    worker.failures = [None, RemoteError("the image\n2026 INFO is \x1b[2J too large", "bad_image")]
    results = [await run(dispatcher, by=call(token=token.id)), await run(dispatcher)]
    done, failed = requests_of(caplog)
    assert done.getMessage().startswith(f"{results[0]['task_id']} ada (ws/client) shark 1x4x4: done after ")
    assert re.search(r"after \d+\.\d\d s \(queued \d+\.\d\d, loading \d+\.\d\d, running \d+\.\d\d\)$", done.getMessage())
    assert failed.getMessage().startswith(f"{results[1]['task_id']} without token (ws/client) shark 1x4x4: bad_image after")
    assert failed.getMessage().endswith(": the image\\n2026 INFO is \\x1b[2J too large")
    fields = done.fields
    assert (fields["token"], fields["model"], fields["shapes"], fields["size"]) == ("ada", "shark", [[1, 4, 4]], 64)
    assert fields["outcome"] == "done" and fields["running_seconds"] >= 0 and "error" not in fields
    assert failed.fields["error"] and failed.fields["outcome"] == "bad_image"


async def test_a_client_that_leaves_is_an_outcome_too(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dispatcher, worker = make()
    log_requests(tmp_path, dispatcher)
    worker.gate = asyncio.Event()
    task = asyncio.create_task(run(dispatcher))
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait({task})
    (record,) = requests_of(caplog)
    assert record.fields["outcome"] == "caller_gone"
    assert record.getMessage().endswith(
        ": The call ended before there was a result: the client disconnected, or the server is stopping."
    )
    worker.gate.set()


async def test_what_clients_send_forges_nothing(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dispatcher, _ = make()
    log_requests(tmp_path, dispatcher)
    caller = Caller("user", "ws\n2026 INFO", "c\x1b[2J" * 1000)
    await run(dispatcher, "m\r\n" * 10_000, by=Call(caller, Progress(None)))
    (record,) = requests_of(caplog)
    assert record.getMessage().isprintable() and len(record.getMessage()) < 2000
    line = JsonFormatter("bioengine_server").format(record)
    assert line.isascii() and line.isprintable() and json.loads(line)["outcome"] == "bad_model_id"


async def test_the_readiness_probe_is_not_logged(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dispatcher, _ = make()
    log_requests(tmp_path, dispatcher)
    await run(dispatcher, "missing", by=Call(Caller(OWN_USER, "", ""), Progress(None)))
    assert requests_of(caplog) == []


def json_line(name: str, message: str, *arguments: object, error: Exception | None = None) -> dict[str, Any]:
    stream = io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.Logger(name)
    handler.setFormatter(formatter(Settings(log_format="json")))
    logger.addHandler(handler)
    try:
        raise error or ValueError
    except ValueError:
        logger.error(message, *arguments, exc_info=error is not None, extra={"fields": {"more": 1}})
    line = stream.getvalue()
    assert line.endswith("\n") and line.isascii() and line[:-1].isprintable()
    found: dict[str, Any] = json.loads(line)
    return found


def test_json_for_programs() -> None:
    found = json_line("bioengine_server.x", "named %s\n", "ä\n\x1b[2J" + "x" * 5000)
    assert found["time"].endswith("+00:00") and found["level"] == "ERROR" and found["logger"] == "bioengine_server.x"
    assert found["message"].startswith("named ä\n\x1b[2Jx") and len(found["message"]) < 2100 and found["more"] == 1
    ours = json_line("bioengine_server.x", "failed", error=ValueError("no\nforged"))
    assert ours["traceback"][0].startswith("Traceback") and ours["traceback"][-1] == "forged"
    theirs = json_line("hypha.x", "failed", error=ValueError("no\nforged"))
    assert theirs["message"] == "failed (ValueError: no)" and "traceback" not in theirs


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("bioengine_server.of-a-test")
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)


def test_the_log_is_in_a_file_too(tmp_path: Path, root_logger: logging.Logger) -> None:
    file = tmp_path / "server.log"
    with logged_to(file, TEXT):
        root_logger.info("within")
    root_logger.info("after")
    assert file.read_text() == "within\n" and stat.S_ISREG(file.stat().st_mode)


def test_a_file_that_cannot_be_written_does_not_stop_the_server(tmp_path: Path, root_logger: logging.Logger) -> None:
    with logged_to(tmp_path / "none" / "server.log", TEXT):
        root_logger.info("within")


def test_the_last_lines_and_what_follows_them(tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    reader = LogReader(file)
    assert reader.last(3) == [] and reader.new() == []
    file.write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert LogReader(file).last(2) == ["line 19998", "line 19999"] and LogReader(file).last(0) == []
    assert len(LogReader(file).last(19_000)) == 19_000 and len(LogReader(file).last(10**6)) == 20_000
    reader = LogReader(file)
    reader.last(1)
    with file.open("a") as stream:
        stream.write("half a ")
        stream.flush()
        assert reader.new() == []
        stream.write("line \x1b[2J\nnext\n")
    assert reader.new() == ["half a line \\x1b[2J", "next"]


def test_a_file_that_is_rotated_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    handler = LogFile(file, TEXT, size=500, older=2)
    reader = LogReader(file)
    seen: list[str] = []
    for number in range(100):
        handler.emit(logging.makeLogRecord({"msg": f"line {number:>20}"}))
        seen += reader.new()
    handler.close()
    assert seen == [f"line {number:>20}" for number in range(100)]
    file.write_text("begun anew\n")
    assert reader.new() == ["begun anew"]


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run dir of a server that has ended."""
    monkeypatch.setenv("BIOENGINE_RUN_DIR", str(folder := tmp_path / "run"))
    folder.mkdir(mode=0o700)
    return folder


def test_the_command_shows_both_logs(tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "server.log").write_text("a\nb\nc\n")
    operations.logs(lines=2, home=tmp_path)
    assert capsys.readouterr().out == "b\nc\n"
    (run_dir / "triton.log").write_text("d\n")
    operations.logs(lines=2, home=tmp_path)
    assert capsys.readouterr().out == f"==> {run_dir}/server.log <==\nb\nc\n\n==> {run_dir}/triton.log <==\nd\n"


def test_the_command_follows(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(3))

    def look(_: float) -> None:
        if next(looks, None) is None:
            raise KeyboardInterrupt
        with (run_dir / "server.log").open("a") as log:
            log.write("more\n")

    monkeypatch.setattr(time, "sleep", look)
    operations.logs(follow=True, home=tmp_path)
    assert capsys.readouterr().out.endswith("server.log <==\nmore\nmore\nmore\n")
