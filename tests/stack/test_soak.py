"""`./bioengine soak`, for as long as a test may take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bioengine_server.soak.kills import KINDS
from bioengine_server.soak.plan import BAD, BAD_FOR_TRITON

from tests.stack.harness import bioengine

pytestmark = pytest.mark.extended

MINUTES = 3


def test_a_soak(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    elsewhere = {"BIOENGINE_HOME": str(tmp_path / "unused"), "TMPDIR": str(tmp_path / "temporary")}
    files = ["--json", str(figures), "--plot", str(picture)]
    done = bioengine("soak", "--minutes", str(MINUTES), "--seed", "1", "--pause", "0.5", *files, timeout=900, **elsewhere)
    print(done.stdout)
    assert "Traceback" not in done.stderr, done.stderr
    told = json.loads(figures.read_text())
    # How long a recovery takes, and what grows, depends on what else runs here: that is for the command itself to judge.
    judged = [problem for problem in told["problems"] if "was killed, and it took" in problem or " grew from " in problem]
    assert told["wrong_answers"] == 0 and told["problems"] == judged, done.stdout
    assert done.returncode == (1 if judged else 0)
    assert set(told["recovery"]) == set(KINDS), "each was killed"
    assert told["outcomes"]["run"]["right"] > 100
    kinds = set(told["outcomes"])
    assert len({action.kind for action in (*BAD, *BAD_FOR_TRITON)} & kinds) > len(BAD) / 2
    assert {"cancelled run", "client that vanishes while it sends", "client that vanishes while its model runs"} <= kinds
    assert told["outcomes"]["cancelled run"]["cancelled"] > 0
    assert ("All as it should be." in done.stdout) == (not judged)
    assert len(told["samples"]) > 30 and picture.read_text().startswith("<svg")
    assert not (tmp_path / "unused").exists() and not list((tmp_path / "temporary").iterdir()), "all that it made is gone"
