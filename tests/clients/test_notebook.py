"""The tutorial, run cell by cell as a user does it, with its pictures."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stack.harness import ROOT, USUAL_URL, Stack, python

TUTORIAL = ROOT / "docs" / "notebooks" / "tutorial.ipynb"


def outputs(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text())["cells"]
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


@pytest.mark.extended
def test_tutorial(stack: Stack, tmp_path: Path) -> None:
    notebook = tmp_path / "tutorial.ipynb"
    notebook.write_text(TUTORIAL.read_text().replace(USUAL_URL, stack.url))
    execute = str(Path(python("client-notebook")).with_name("jupyter-execute"))
    run = subprocess.run([execute, "--inplace", str(notebook)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    made = outputs(notebook)
    assert sum("image/png" in output.get("data", {}) for output in made) == 3
    printed = "".join("".join(output["text"]) for output in made if output["output_type"] == "stream")
    assert "input  image bcyx" in printed and "False\n" in printed and "{'state': 'running', 'task_id': '" in printed
    (dice,) = re.findall(r"Dice coefficient of (0\.\d+)", printed)
    assert float(dice) > 0.9


def test_the_pictures_are_kept_with_it() -> None:
    """Who reads it without running it sees them, and no path or address of whoever ran it last."""
    made = outputs(TUTORIAL)
    assert sum("image/png" in output.get("data", {}) for output in made) == 3
    assert not any(output["output_type"] == "error" for output in made)
    assert not re.search(r"/home/|/root/|/tmp/|/work/|127\.0\.0\.1:(?!9520)", TUTORIAL.read_text())
