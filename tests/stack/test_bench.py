"""`./bioengine bench`: all is measured and told; never how fast, which is for the bench itself to judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stack.harness import bioengine

pytestmark = pytest.mark.extended

LIBRARIES = ("imjoy-rpc", "hypha-rpc")
LIMITED = {f"echo {size}, {library}" for size in ("4 MB", "16 MB") for library in LIBRARIES} | {"Triton 16 MB, through /triton"}
REFERENCES = {"floor 4 MB", "floor 16 MB", "Triton 16 MB, asked directly"}
MEMORY = {"memory at rest", "memory, peak while 16 MB pass"}


def test_bench(tmp_path: Path) -> None:
    """One round. Every image is compared on its way: `tests/unit/server/test_bench.py` has one that comes back changed."""
    (tmp_path / "temporary").mkdir()
    figures = tmp_path / "figures.json"
    elsewhere = {"BIOENGINE_HOME": str(tmp_path / "unused"), "TMPDIR": str(tmp_path / "temporary")}
    done = bioengine("bench", "--rounds", "1", "--json", str(figures), **elsewhere)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    measurements = {item["name"]: item for item in json.loads(figures.read_text())["measurements"]}
    assert set(measurements) == LIMITED | REFERENCES | MEMORY
    assert all(len(item["values"]) == 1 and item["median"] > 0 for item in measurements.values())
    for name in LIMITED:
        reference = measurements[measurements[name]["compared_with"]]
        assert measurements[name]["ratio"] == pytest.approx(measurements[name]["median"] / reference["median"])
        assert measurements[name]["limit"] or measurements[name]["ratio_limit"]
    exceeded = {name for name, item in measurements.items() if item["exceeded"]}
    assert done.returncode == (1 if exceeded else 0)
    assert ("All within their limits." in done.stdout) == (not exceeded)
    assert all(name in done.stdout for name in measurements)
    assert not (tmp_path / "unused").exists() and not list((tmp_path / "temporary").iterdir()), "all that it made is gone"
    assert measurements["memory, peak while 16 MB pass"]["median"] >= measurements["memory at rest"]["median"]
