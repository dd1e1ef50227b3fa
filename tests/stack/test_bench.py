"""`./bioengine bench`: all is measured and told; never how fast, which is for the bench itself to judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bioengine_server.bench import huge
from bioengine_server.bench.errors import TooLittleSharedMemory
from bioengine_server.bench.stack import bench_stack
from bioengine_server.settings import Settings

from tests.stack.harness import ENVIRONMENTS, bioengine

pytestmark = pytest.mark.extended

LIBRARIES = ("imjoy-rpc", "hypha-rpc")
IMAGES = ("256x256", "1024x1024", "64x256x256")
LIMITED = {
    *(f"echo {size}, {library}" for size in ("4 MB", "16 MB") for library in LIBRARIES),
    "Triton 16 MB, through /triton",
    *(f"{image}, hypha-rpc" for image in IMAGES),
}
# Many callers, sizes in turn, and another server's worker: no one request's CPU time is told of.
CROWDS = {
    *(f"{side}x{side} between other sizes" for side in (256, 512, 1024)),
    "256x256, answers to 16 callers",
    *(f"echo {size}, by a worker" for size in ("4 MB", "16 MB")),
}
UNLIMITED = {"1024x1024, small model, hypha-rpc"}
REFERENCES = {
    *("floor 4 MB", "floor 16 MB", "Triton 16 MB, asked directly"),
    *(f"bioimageio.core {image}" for image in (*IMAGES, "1024x1024, small model")),
    *(f"{side}x{side} alone" for side in (256, 512, 1024)),
    "256x256, answers to 1 caller",
    *(f"echo {size}, by the server's own Triton" for size in ("4 MB", "16 MB")),
}
MEMORY = {"memory at rest", "memory, peak while 16 MB pass", "memory after all, with the models of the bench"}


def test_bench(tmp_path: Path) -> None:
    """One round. Every image is compared on its way: `tests/unit/server/test_bench.py` has one that comes back changed."""
    (tmp_path / "temporary").mkdir()
    figures = tmp_path / "figures.json"
    elsewhere = {"BIOENGINE_HOME": str(tmp_path / "unused"), "TMPDIR": str(tmp_path / "temporary")}
    done = bioengine("bench", "--rounds", "1", "--json", str(figures), timeout=1500, **elsewhere)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    measurements = {item["name"]: item for item in json.loads(figures.read_text())["measurements"]}
    assert set(measurements) == LIMITED | UNLIMITED | CROWDS | REFERENCES | MEMORY
    assert all(len(item["values"]) == 1 and item["median"] > 0 for item in measurements.values())
    for name in LIMITED | UNLIMITED | CROWDS:
        reference = measurements[measurements[name]["compared_with"]]
        assert measurements[name]["ratio"] == pytest.approx(measurements[name]["median"] / reference["median"])
        assert any(measurements[name][limit] for limit in ("limit", "ratio_limit", "added_limit")) == (name in LIMITED | CROWDS)
    watched = {name for name, item in measurements.items() if item["cpu"]}
    assert watched == LIMITED | UNLIMITED | {"Triton 16 MB, asked directly"}
    for name in watched:
        cpu = measurements[name]["cpu"]
        assert set(cpu) == {"server", "Triton", "runner", "models", "client"}
        assert all(len(process["values"]) == 1 for process in cpu.values())
        assert cpu["client"]["median"] > 0.1 and cpu["models"]["median"] > 0.1, "both take part in every request"
        assert name == "Triton 16 MB, asked directly" or cpu["server"]["median"] > 1
    assert "CPU time in ms" in done.stdout
    exceeded = {name for name, item in measurements.items() if item["exceeded"]}
    assert done.returncode == (1 if exceeded else 0)
    assert ("All within their limits." in done.stdout) == (not exceeded)
    assert all(name in done.stdout for name in measurements)
    assert not (tmp_path / "unused").exists() and not list((tmp_path / "temporary").iterdir()), "all that it made is gone"
    assert measurements["memory, peak while 16 MB pass"]["median"] >= measurements["memory at rest"]["median"]


def test_a_huge_image() -> None:
    """A small one, in the same way: its bands are compared with runs of each alone."""
    with bench_stack(Settings(environments=ENVIRONMENTS)) as stack:
        size, whole, model, run = huge.huge(stack, rounds=1, side=1536)
        with pytest.raises(TooLittleSharedMemory, match=r"/dev/shm has .* GB free"):
            huge.huge(stack, rounds=1, side=1 << 24)
    assert size.median == 1536 * 1536 * 2 / 1e6
    assert whole.median > model.median > size.median and run.median > 0
    assert whole.ratio == pytest.approx(whole.median / size.median)
