"""The last lines that a model's process has logged."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bioengine_runner.process_log import keep, last_lines
from bioengine_runner.rundir import Boot


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    (tmp_path / "processes").mkdir()
    handlers = list(logging.getLogger().handlers)
    yield Boot(tmp_path, tmp_path / "store", run_timeout=1, debug=False)
    logging.getLogger().handlers[:] = handlers


def test_the_last_lines_are_told_without_paths(boot: Boot) -> None:
    assert last_lines(boot, "shark") == ""
    keep(boot, "shark")
    for line in ("first", "reads /var/lib/bioengine/models/shark/1/weights.onnx", "gives up\x1b[31m: no room in /dev/shm/x-1"):
        logging.warning(line)
    assert last_lines(boot, "shark") == "reads … | gives up [31m: no room in …"
    logging.warning("y" * 10_000)
    assert last_lines(boot, "shark") == "y" * 300


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_a_model_puts_in_its_place_is_neither_followed_nor_waited_for(boot: Boot, tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_text("secret")
    file = boot.processes / "log" / "shark"
    file.parent.mkdir()
    {"link": lambda: file.symlink_to(tmp_path / "secret"), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}[kind]()
    assert last_lines(boot, "shark") == ""
