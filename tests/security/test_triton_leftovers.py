"""What models leave behind, and what they or other users put in the place of things that the server uses."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from bioengine_server.log_file import LogFile
from bioengine_server.triton import orphans as leftovers
from bioengine_server.triton.group import end_remembered, remember
from bioengine_server.triton.log import MAX_LINE, lines


def test_an_endless_line_is_cut() -> None:
    output = b"first\n" + b"x" * 1_000_000 + b"\nsecond \xff\nlast"
    first, long, second, last = lines(io.BufferedReader(io.BytesIO(output)))
    assert (first, second, last) == ("first", "second �", "last")
    assert long == "x" * MAX_LINE + "… (the rest of this line was dropped)"


@pytest.mark.parametrize("in_the_way", [[1], [1, 2], [2], []])
def test_the_log_goes_on_whatever_is_in_its_way(tmp_path: Path, in_the_way: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "triton.log"
    for number in in_the_way:
        (tmp_path / f"triton.log.{number}" / "inner").mkdir(parents=True)
    handler = LogFile(file, logging.Formatter("%(message)s"), size=1000, older=2)
    for number in range(100):
        handler.emit(logging.makeLogRecord({"msg": f"line {number} {'x' * 80}"}))
    handler.close()
    assert "line 99" in file.read_text() and file.stat().st_size <= 1000
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 3000
    assert capfd.readouterr().err == ""


def test_what_is_left_of_the_latest_group_is_ended(tmp_path: Path) -> None:
    """The leader, as Triton, has ended; what it had started goes on."""
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '600'], stdout=-3).pid, flush=True); time.sleep(600)"
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout is not None
    orphan = psutil.Process(int(leader.stdout.readline()))
    remember(tmp_path / "group", leader.pid)
    leader.kill()
    leader.communicate()
    assert orphan.is_running()
    end_remembered(tmp_path / "group")
    end = time.monotonic() + 10
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.05)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "group").exists()


def test_a_group_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        file = tmp_path / "group"
        remember(file, other.pid)
        known = json.loads(file.read_text())
        changes: list[Any] = [
            ["another start", *known[1:]],
            [known[0], other.pid, known[2] - 5],
            [known[0], -1, known[2]],
            {},
            None,
        ]
        for changed in changes:
            file.write_text(json.dumps(changed))
            end_remembered(file)
            assert other.poll() is None
        end_remembered(file)
    finally:
        other.kill()
        other.wait()


def test_what_others_have_made_stops_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user is not to be had: we say that we are another one than we are."""
    monkeypatch.setattr(leftovers, "_SHARED_MEMORY", tmp_path)
    (tmp_path / "bioengine-xyz-segment").mkdir()
    process = subprocess.Popen(
        ["bash", "-c", "exec -a tritonserver bash -c 'sleep 600; :' bioengine-xyz-"], start_new_session=True
    )
    try:
        time.sleep(0.3)
        assert [each.pid for each in leftovers.processes_of("bioengine-xyz-")] == [process.pid]
        with monkeypatch.context() as as_another:
            as_another.setattr(os, "getuid", lambda: 4711)
            as_another.setattr(os, "geteuid", lambda: 4711)
            leftovers.sweep("bioengine-xyz-")
        assert process.poll() is None and (tmp_path / "bioengine-xyz-segment").exists()
        leftovers.sweep("bioengine-xyz-")
        assert not psutil.pid_exists(process.pid) and not (tmp_path / "bioengine-xyz-segment").exists()
    finally:
        with pytest.raises(ProcessLookupError):
            while True:
                os.killpg(process.pid, 9)
                process.poll()
                time.sleep(0.05)
