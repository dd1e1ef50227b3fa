"""What a client chose is logged and shown on one line, shortened, without anything that a terminal obeys."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from bioengine_server.commands.shared import configure_logging
from bioengine_server.log_format import LogFormatter
from bioengine_server.settings import Settings
from bioengine_server.untrusted import printable, quoted, shown

HOSTILE = [
    "\n", "\r", "\r\n", "\v", "\f", "\x00", "\x07", "\x08", "\x1b[2J", "\x1b]0;title\x07", "\x7f", "\x85", "\x9b31m",
    "\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069", "\u200b", "\u200e", "\u061c", "\ufeff", "\xad", "\ud800",
    "\U000e0041", "\x1c", "\x1d", "\x1e",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_what_hides_or_controls_is_escaped(text: str) -> None:
    for safe in (shown(f"a{text}b"), quoted(f"a{text}b"), printable(f"a{text}b")):
        assert safe.isprintable() and "a" in safe and "b" in safe and text not in safe
        safe.encode()
        assert safe.splitlines() == [safe]


@pytest.mark.parametrize("text", ["affable-shark", "Zellkern µ 核 😀", "C:\\images", "it's"])
def test_other_text_stays_readable(text: str) -> None:
    assert printable(text) == text
    assert shown(text) == text and quoted(text) == repr(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 101, repr("x" * 99 + "…")),
        ("x" * 10**7, repr("x" * 99 + "…")),
        (b"a\n\xff", r"'a\nÿ'"),
        (b"x" * 10**7, repr("x" * 99 + "…")),
        (None, "None"),
        ({"a": 1}, "{'a': 1}"),
    ],
    ids=["long", "very long", "bytes", "many bytes", "none", "dict"],
)
def test_how_a_value_is_quoted(value: object, text: str) -> None:
    assert quoted(value) == text


def test_what_is_long_is_cut() -> None:
    assert shown("x" * 81) == "x" * 79 + "…" and shown("\x1b" * 80, 10) == r"\x1b\x1b\x"[:9] + "…"


def test_large_and_deep_values_are_shown_shortly() -> None:
    deep: list[object] = []
    deep.append(deep)
    for value in (list(range(10**6)), {str(key): "x" * 10**5 for key in range(1000)}, 10**4000, deep, [["\x1b[2J" * 10**6]]):
        assert len(quoted(value)) <= 100 and quoted(value).isprintable()
    assert len(quoted("x" * 1000, limit=20)) == 22


def logged(message: str, *arguments: object, error: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "of-a-test"))
    logger = logging.Logger("of-a-test")
    logger.addHandler(handler)
    try:
        if error is not None:
            raise error
        logger.warning(message, *arguments)
    except Exception:
        logger.exception(message, *arguments)
    return stream.getvalue()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_record_is_one_line(text: str) -> None:
    line = logged("A client named %s", f"a{text}2026-01-01 00:00:00,000 INFO forged")
    assert line.count("\n") == 1 and line.endswith("\n") and line[:-1].isprintable()
    assert "of-a-test: A client named a" in line


def test_a_traceback_is_readable_and_forges_no_record() -> None:
    text = logged("It failed", error=ValueError("x\n2026-01-01 00:00:00,000 INFO forged\x1b[2J"))
    first, *more = text.splitlines()
    assert first.endswith("ERROR of-a-test: It failed")
    assert more[0] == "  Traceback (most recent call last):" and more[-2] == "  ValueError: x"
    assert more[-1] == "  2026-01-01 00:00:00,000 INFO forged\\x1b[2J"


def test_a_long_record_is_shortened() -> None:
    assert len(logged("A client named %s", "x" * 10**6)) < 3_000


def test_the_server_s_own_log_is_written_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    root, level = logging.getLogger(), logging.getLogger("bioengine_server").level
    before, root_level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    try:
        configure_logging(Settings())
        logging.getLogger("bioengine_server.anything").info("named %s", "a\nb")
        logging.getLogger("uvicorn.error").error("named %s", "c\nd")
    finally:
        root.handlers[:] = before
        root.setLevel(root_level)
        logging.getLogger("bioengine_server").setLevel(level)
    assert "named a\\nb\n" in stream.getvalue() and "named c\\nd\n" in stream.getvalue()
