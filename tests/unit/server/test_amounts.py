"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from bioengine_contract.machine import machine_memory
from bioengine_server.amounts import parse_duration, parse_size
from bioengine_server.settings import Settings


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (1000, 1000), ("8GB", 8e9), ("8 g", 8e9), ("500MiB", 500 * 2**20), ("1.5TB", 1.5e12), ("10b", 10)],
)
def test_sizes(text: object, size: float) -> None:
    assert parse_size(text) == size


def test_a_share_is_of_this_machine() -> None:
    assert parse_size("50%") == machine_memory() // 2


@pytest.mark.parametrize("text", ["", "much", "-1", "8 XB", "0%", "120%", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected bytes, or such as 8GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2 d", 172800), (-1, -1), (-1.0, -1), ("-1", -1)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "30 minutes", "m", "-5", "-1m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected seconds, such as .*, or -1 for no end"):
        parse_duration(text)


def test_settings_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOENGINE_MEMORY_LIMIT", "8GB")
    monkeypatch.setenv("BIOENGINE_KEEP_LOADED", "1h")
    assert (Settings().memory_limit, Settings().keep_loaded) == (8_000_000_000, 3600)
    monkeypatch.setenv("BIOENGINE_MEMORY_LIMIT", "lots")
    with pytest.raises(ValueError, match="'lots' is not a size"):
        Settings()
