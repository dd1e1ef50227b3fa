"""Which models are unloaded to make room for another one."""

from __future__ import annotations

import pytest
from bioengine_contract.machine import machine_memory
from bioengine_contract.operations import Card, Report
from bioengine_server.dispatch.budget import Budget, has_grown
from bioengine_server.workers.memory import Memory

GB = 10**9


def test_those_used_longest_ago_are_unloaded_until_it_fits() -> None:
    budget = Budget(host=10 * GB, cards=0)
    idle = [("old", Memory(2 * GB)), ("newer", Memory(3 * GB)), ("newest", Memory(3 * GB))]
    assert budget.to_unload(Memory(10 * GB), idle) == []
    assert budget.to_unload(Memory(11 * GB), idle) == ["old"]
    assert budget.to_unload(Memory(13 * GB), idle) == ["old", "newer"]
    assert budget.to_unload(Memory(19 * GB), idle) is None


def test_cards_count_where_there_are_some() -> None:
    budget = Budget(host=100 * GB, cards=0)
    assert budget.exceeded(Memory(GB, 90 * GB)) == ""
    report = Report(boot="1", dead_instances=[], models={}, cards=[Card(index=0, name="fake", memory=20 * GB, free=GB)])
    budget.learn(report)
    assert budget.limit == Memory(100 * GB, 18 * GB)
    assert budget.exceeded(Memory(GB, 19 * GB)) == "BIOENGINE_GPU_MEMORY_LIMIT"
    assert budget.to_unload(Memory(GB, 19 * GB), [("a", Memory(GB, 0)), ("b", Memory(0, 2 * GB))]) == ["a", "b"]
    own = Budget(host=0, cards=5 * GB)
    own.learn(report)
    assert own.limit.cards == 5 * GB


def test_most_of_the_machine_is_the_default() -> None:
    budget = Budget(host=0, cards=0)
    assert budget.limit == Memory(int(machine_memory() * 0.75), 0)
    budget.learn(Report(boot="1", dead_instances=[], models={}, memory=4 * GB))
    assert budget.limit.host == 3 * GB, "of the worker's machine"


@pytest.mark.parametrize(
    ("now", "at_rest", "grown"),
    [
        (Memory(9 * GB), Memory(GB), True),
        (Memory(GB), Memory(GB), False),
        (Memory(GB, 20 * GB), Memory(GB, GB), True),
        (Memory(9 * GB), Memory(), False),
    ],
)
def test_a_process_that_keeps_much_more_than_at_rest_has_grown(now: Memory, at_rest: Memory, grown: bool) -> None:
    assert has_grown(now, at_rest) is grown
