"""The pictures of docs/images.md: drawn by their script, with a real server, as they are in the docs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.stack.harness import ROOT, Stack, python

FOLDER = ROOT / "docs" / "images"


@pytest.mark.extended
def test_the_script_draws_the_pictures_of_the_docs(stack: Stack, tmp_path: Path) -> None:
    run = subprocess.run(
        [python("client-notebook"), str(FOLDER / "draw.py"), stack.url, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    shown = set(re.findall(r"\]\(images/([\w-]+\.png)\)", (ROOT / "docs" / "images.md").read_text()))
    assert {file.name for file in tmp_path.iterdir()} == shown
    for name in shown:
        with Image.open(tmp_path / name) as drawn, Image.open(FOLDER / name) as kept:
            assert drawn.size == kept.size, name
        assert (FOLDER / name).stat().st_size < 150_000, name
    tiles, by_hand = map(float, re.findall(r"by (?:at most )?(\d[\d.e-]*)", run.stdout))
    assert tiles < 0.1 < by_hand, "what the page says of the third picture"
