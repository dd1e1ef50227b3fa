"""Processes of replaced instances end, and no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bioengine_contract.processes import Process
from bioengine_runner.loading.records import INSTANCES, Record, Records
from bioengine_runner.loading.replaced import end_replaced
from bioengine_runner.rundir import Boot


@pytest.fixture
def records(tmp_path: Path) -> Records:
    (tmp_path / "processes" / INSTANCES).mkdir(parents=True)
    return Records(Boot(tmp_path, tmp_path / "store", run_timeout=1, debug=False), INSTANCES)


def start_time(pid: int) -> int:
    """In clock ticks since the boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.fixture
def sleepers() -> Iterator[list[Process]]:
    """Two processes that do nothing."""
    started = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    yield [Process(each.pid, start_time(each.pid)) for each in started]
    for each in started:
        each.kill()
        each.wait()


def test_all_that_served_under_the_name_before_are_ended(records: Records, sleepers: list[Process]) -> None:
    first, second = sleepers
    records._write("0_0", Record(second.pid, second.started, before=[[first.pid, first.started]]))
    record = records.begin("0_0")
    assert record.before == [[first.pid, first.started], [second.pid, second.started]]
    end_replaced(record, grace=0).join(10)
    assert not first.is_alive() and not second.is_alive()
    assert records.begin("0_0").before == [[record.pid, record.started]], "the dead are forgotten"


def test_nobody_else_is_ended(records: Records, sleepers: list[Process]) -> None:
    first, second = sleepers
    records._write("0_1", Record(first.pid, first.started))
    record = records.begin("0_0")
    recycled = Record(record.pid, record.started, before=[[second.pid, second.started - 1]])
    for each in (record, recycled):
        end_replaced(each, grace=0).join(10)
    assert first.is_alive() and second.is_alive()
