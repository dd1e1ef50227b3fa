"""What `bioengine soak` does by its seed, and what it makes of what it saw."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.errors import StackError
from bioengine_server.settings import Settings
from bioengine_server.soak import run, watch
from bioengine_server.soak.caller import NO_ANSWER, Outcome
from bioengine_server.soak.kills import KINDS, Kill
from bioengine_server.soak.plan import BAD, BAD_FOR_TRITON, CALLERS, IMAGES, Action, Plan
from bioengine_server.soak.plot import plot
from bioengine_server.soak.program import Known, Refused, act
from bioengine_server.soak.report import as_json, bars, kills_table, outcomes_table, series_table, summary
from bioengine_server.soak.tally import Tally
from bioengine_server.soak.watch import Sample
from rich.console import Console

from tests.unit.server.vanishing import goes_when_looked_into

ANSWERS = {image: Path(f"right-{number}.npy") for number, image in enumerate(IMAGES)}
RUN = Action("run", {"model_id": "bench-echo", "inputs": []}, ("right",))
BAD_TILE = next(action for action in BAD if "bad_tile" in action.right)


def actions(kind: str, seed: str, count: int = 500) -> list[Action]:
    return list(islice(Plan(kind, seed, ANSWERS), count))


def outcome(what: str, action: Action = RUN, at: float = 100.0) -> Outcome:
    return Outcome("hypha-rpc", action, what, "its text", at, at + 1)


def samples(**values: list[int]) -> list[Sample]:
    usual = {"server": 200_000_000, "triton": 50_000_000, "models": 300_000_000, "card": None, "shared": 0}
    usual |= {"descriptors": 20, "threads": 6}
    length = len(next(iter(values.values()), [0] * 40))
    rows = [{**usual, **{name: each[number] for name, each in values.items()}} for number in range(length)]
    return [Sample(seconds=5.0 * number, **row) for number, row in enumerate(rows)]  # type: ignore[arg-type]


def tally(outcomes: list[Outcome], kills: Sequence[Kill] = (), **values: list[int]) -> Tally:
    return Tally(1, 0.5, 0.0, outcomes, kills, samples(**values))


@pytest.mark.parametrize("kind", sorted(set(CALLERS)))
def test_a_seed_says_what_a_caller_does(kind: str) -> None:
    assert actions(kind, "1 caller 0") == actions(kind, "1 caller 0") != actions(kind, "2 caller 0")
    done = Counter(action.kind for action in actions(kind, "1 caller 0", 2000))
    bad = {action.kind for action in (BAD_FOR_TRITON if kind == "triton" else BAD)}
    assert bad < set(done), "each kind of bad input"
    assert sum("vanishes" in kind for kind in done) == 2
    assert ("cancelled run" in done) == kind.endswith("rpc")
    asked = {(action.request["model_id"], action.expected) for action in actions(kind, "1 caller 0") if action.kind == "run"}
    assert len(asked) == len(IMAGES), "all models and sizes"


def test_what_counts_as_a_problem() -> None:
    kill = Kill(KINDS[0], 200.0, 204.0)
    fine = [outcome("right"), outcome("bad_tile", BAD_TILE), outcome("model_process_died", at=201), outcome("busy", at=205)]
    assert tally(fine, [kill]).problems == [], "a failed run is excused while something heals"
    assert len(tally([outcome("model_process_died", at=207)], [kill]).unexpected) == 1
    assert len(tally([outcome("result", BAD_TILE), outcome("wrong_size", BAD_TILE)]).unexpected) == 2, "not refused, and wrongly"
    never = tally([outcome("wrong", at=201), outcome(NO_ANSWER, at=201)], [kill])
    assert len(never.wrong) == 1 and len(never.unexpected) == 1, "nothing excuses these"
    assert len(tally(fine, [Kill("Triton", 200.0, 211.0)]).slow) == 1


@pytest.mark.parametrize(
    ("values", "grown"),
    [
        ({"server": [200_000_000] * 40}, []),
        ({"server": [1_000_000_000] * 20 + [200_000_000] * 20}, []),
        ({"server": [100_000_000] * 20 + [200_000_000] * 20}, []),
        ({"server": [200_000_000 + 16_000_000 * number for number in range(40)]}, ["memory of the server grew from"]),
        ({"descriptors": [20 + 3 * number for number in range(40)]}, ["descriptors of the server grew from 94 to 124"]),
        ({"descriptors": [20, 35] * 20}, []),
        ({"threads": [6] * 30 + [30] * 10}, ["threads of the server grew from 6 to 30"]),
        ({"card": [3_000_000_000] * 30 + [9_000_000_000] * 10}, ["memory of the cards grew from 3000 MB to 9000 MB"]),
        ({"server": [1, 2, 3, 10**12]}, []),
        ({"server": [10**8] * 12 + [10**9] * 12}, []),
    ],
    ids=[
        "flat",
        "falls",
        "grows in the first half",
        "grows",
        "descriptors",
        "to and fro",
        "threads",
        "card",
        "too few",
        "too short",
    ],
)
def test_what_grew_is_named(values: dict[str, list[int]], grown: list[str]) -> None:
    found = list(map(str, tally([], [], **values).grown))
    assert len(found) == len(grown) and all(text in said for text, said in zip(grown, found)), found


def test_the_report_and_the_picture(tmp_path: Path) -> None:
    kills = [Kill(KINDS[0], 3.0, 4.5), Kill(KINDS[0], 10.0, 12.0), Kill(KINDS[2], 20.0, 32.0)]
    whole = tally([outcome("right")] * 3 + [outcome("wrong"), outcome("bad_tile", BAD_TILE)], kills, server=[10**8] * 40)
    console = Console(width=140, record=True, file=open(tmp_path / "unused", "w"))
    console.print(outcomes_table(whole), kills_table(whole), series_table(whole), *summary(whole), sep="\n")
    text = console.export_text()
    assert "run" in text and "3 right, 1 wrong" in text and "1 bad_tile" in text
    assert "2.0 s of 10 s" in text and "12.0 s of 10 s" in text
    assert "5 requests, 1 wrong answers" in text and "memory of the server" in text and "100 MB" in text
    assert "wrong answer of bench-echo to hypha-rpc" in text and "Triton was killed, and it took 12.0 s" in text
    assert "memory of the cards" not in text, "there is none"
    told = json.loads(as_json(whole))
    assert told["wrong_answers"] == 1 and len(told["samples"]) == 40 and told["outcomes"]["run"] == {"right": 3, "wrong": 1}
    assert [kill["recovery"] for kill in told["kills"]] == [1.5, 2.0, 12.0] and len(told["problems"]) == 2
    picture = ElementTree.fromstring(plot(whole))
    shapes = Counter(each.tag.rpartition("}")[2] for each in picture.iter())
    assert shapes["polyline"] == 7 and shapes["line"] > 3 * len(kills)
    assert list(summary(tally([outcome("right")], server=[10**8] * 40)))[1:] == ["All as it should be."]
    short = list(summary(tally([outcome("right")], server=[10**8] * 12)))
    assert "too short to say whether something grows" in short[1] and short[2] == "All as it should be."


def test_bars() -> None:
    assert bars([0, 1, 2, 4]) == "▁▃▅█"
    assert len(bars(list(range(1000)))) == 40 and bars([0.0, 0.0]) == "▁▁"


def test_an_answer_is_compared_and_an_error_told_by_its_code(tmp_path: Path) -> None:
    image = np.random.default_rng(3).random((1, 1, 4, 4), np.float32)
    np.save(tmp_path / "right.npy", image)
    request = {"model_id": "bench-echo", "inputs": [{"shape": [1, 1, 4, 4], "seed": 3}]}

    def done(result: object, expected: str | None = str(tmp_path / "right.npy")) -> str:
        def run(request: dict[str, Any], _: Known) -> dict[str, Any]:
            np.testing.assert_array_equal(request["inputs"], [image])
            if isinstance(result, Exception):
                raise result
            return result if isinstance(result, dict) else {"success": True, "outputs": [result]}

        return act(run, request, "wait", 0, expected)[0]

    changed, not_a_number = image.copy(), image.copy()
    changed[0, 0, 1, 1] += 0.001
    not_a_number[0, 0, 1, 1] = np.nan
    assert done(image) == done(image + 1e-6) == "right"
    assert done(changed) == done(not_a_number) == done(image[0]) == done(image.astype(np.float64)) == "wrong"
    assert done(changed, expected=None) == "result"
    assert done({"success": False, "code": "busy", "error": "Later."}) == "busy"
    assert done(Refused(400, b'{"error": "No.", "code": "bad_tile"}')) == "bad_tile"
    assert done(Refused(502, b"<html>")) == "HTTP 502"
    assert done(ValueError("no")) == "raised"


def test_without_the_client_libraries_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "build_environments", lambda *names: False)
    with pytest.raises(StackError, match="client libraries"):
        run.run_soak(Settings(), 1, 1, 0, tell=lambda _: None)


def test_tensors_that_go_while_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_SHARED_MEMORY", tmp_path)
    for folder in ("one", "two"):
        (tmp_path / "bioengine-1-tensors" / folder).mkdir(parents=True)
        (tmp_path / "bioengine-1-tensors" / folder / "inputs").write_bytes(bytes(1 << 16))
    (tmp_path / "bioengine-1-queue").write_bytes(bytes(1 << 16))
    goes_when_looked_into(monkeypatch, tmp_path / "bioengine-1-tensors" / "two")
    assert 2 << 16 <= watch.shared_memory("bioengine-1") < 3 << 16
    assert not (tmp_path / "bioengine-1-tensors" / "two").exists()
