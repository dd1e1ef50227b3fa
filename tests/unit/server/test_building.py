"""Environments are built two at a time; where one fails, nothing half-built stays."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

sys.path.append(str(ROOT / "deploy"))  # the launcher's modules, which are no package

import building  # type: ignore[import-not-found]  # noqa: E402
import environments  # type: ignore[import-not-found]  # noqa: E402
import steps  # type: ignore[import-not-found]  # noqa: E402

Recipe = Callable[[Path], Iterator[str]]


def builds(**recipes: Recipe) -> list[Any]:
    """Environments by their recipes; `last` comes after `one`."""
    return [
        environments.Environment(name, name, (), recipe, after=("one",) if name == "last" else ())
        for name, recipe in recipes.items()
    ]


def test_two_are_built_at_a_time_and_what_another_needs_before_it(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    def beside(place: Path) -> Iterator[str]:
        yield "waiting for the other"
        both.wait()
        place.mkdir()

    def after(place: Path) -> Iterator[str]:
        yield "using what is there"
        assert (tmp_path / "one").is_symlink() and (tmp_path / "other").is_symlink()
        place.mkdir()

    building.build_all(builds(last=after, one=beside, other=beside), tmp_path, False)
    assert (tmp_path / "last").is_symlink()


def test_where_one_fails_the_other_ends_too_and_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    begun = tmp_path / "begun"

    def fails(place: Path) -> Iterator[str]:
        yield "waiting"
        while not begun.exists():
            time.sleep(0.01)
        raise steps.BuildFailed("cut off")

    def takes_long(place: Path) -> Iterator[str]:
        yield "installing"
        place.mkdir()
        steps.run(["sh", "-c", f"echo $$ > {begun}.1; mv {begun}.1 {begun}; exec sleep 60"])

    folder = tmp_path / "environments"
    folder.mkdir()
    with pytest.raises(steps.BuildFailed, match="cut off"):
        building.build_all(builds(one=takes_long, other=fails, third=fails), folder, False)
    assert not Path(f"/proc/{begun.read_text().strip()}").exists()
    assert list(folder.iterdir()) == []
    told = capfd.readouterr().err
    assert "[1/3] one: installing ..." in told and "[2/3] other: waiting ..." in told and "third" not in told
