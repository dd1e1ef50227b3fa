"""What the test of a package may do to whoever runs it. In place of the test, a program that does what a hostile model might."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from bioengine_server.store.errors import StoreError
from bioengine_server.store.package_test_run import run_test

GOOD = {"onnx": {"status": "passed", "errors": [], "summary": {}, "tiles": {"tile": {"x": 8}, "differences": {"out": 0.5}}}}


def outcome(folder: Path, script: str, longest: float = 30) -> object:
    """Of a shell script that is run as the test. Its working folder is $W."""
    program = folder / "program"
    program.write_text(f'#!/bin/sh\nW="$5"\n{script}\n')
    program.chmod(0o700)
    return run_test("old-otter", folder, program, ["onnx"], {**os.environ, "F": str(folder)}, longest)


def test_its_report_is_read(tmp_path: Path) -> None:
    (tmp_path / "good").write_text(json.dumps(GOOD))
    result = outcome(tmp_path, 'cp "$F/good" "$W/report.json"')
    assert {name: each.model_dump(exclude_unset=True) for name, each in result.items()} == GOOD  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('ln -s "$F/good" "$W/report.json"', "is not a file"),
        ('mkfifo "$W/report.json"', "is not a file"),
        ('mkdir "$W/report.json"', "is not a file"),
        ('head -c 2000000 /dev/zero > "$W/report.json"', "is too large"),
        ('head -c 900000 /dev/zero | tr "\\0" "[" > "$W/report.json"', "is not valid"),
        ('echo "{}" > "$W/report.json"', "is not about onnx"),
        ("""echo '{"auths": {"registry": {"auth": "secret"}}}' > "$W/report.json" """, "is not valid"),
        ("printf 'last \\033[2J words\\n' >&2; exit 3", r"exit status 3\): last \\x1b\[2J words"),
    ],
)
def test_what_a_model_puts_in_place_of_the_report_is_refused(tmp_path: Path, script: str, reason: str) -> None:
    (tmp_path / "good").write_text(json.dumps(GOOD))
    with pytest.raises(StoreError, match=reason) as raised:
        outcome(tmp_path, script)
    assert "secret" not in str(raised.value)


def test_it_has_no_terminal_and_a_session_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "good").write_text(json.dumps(GOOD))
    outcome(tmp_path, 'readlink /proc/self/fd/0 > "$F/stdin"; ps -o sid= -p $$ > "$F/session"; cp "$F/good" "$W/report.json"')
    assert (tmp_path / "stdin").read_text() == "/dev/null\n"
    assert int((tmp_path / "session").read_text()) != os.getsid(0)


def test_neither_its_time_nor_its_words_are_endless(tmp_path: Path) -> None:
    """And what it has started ends with it."""
    begun = time.monotonic()
    with pytest.raises(StoreError, match="took more than 2 s"):
        outcome(tmp_path, 'sleep 600 & echo $! > "$F/pid"; yes >&2', longest=2)
    assert time.monotonic() - begun < 20
    time.sleep(0.2)
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


@pytest.mark.extended
def test_its_folder_goes_however_deep_it_is(tmp_path: Path) -> None:
    script = 'echo "$W" > "$F/folder"; cd "$W"; for i in $(seq 1500); do mkdir d; cd -P d 2>/dev/null || exit 1; done'
    with pytest.raises(StoreError, match="could not be run"):
        outcome(tmp_path, script)
    assert not Path((tmp_path / "folder").read_text().strip()).exists()
