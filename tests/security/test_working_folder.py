"""Programs take no code from the folder that they are started in: `python -m` does, unless it is told not to."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.stack.harness import ROOT

# In a list of arguments, and on a command line.
_IN_LIST = re.compile(r'"-m",')
_ON_LINE = re.compile(r"\bpython[0-9.]*[\"']?((?: +-\w+)*) +-m +\w")
_KEPT_OUT = re.compile(r'"-(P|I)",\s*$')
_CHECKS = ROOT / "server" / "bioengine_server" / "testing"  # pytest, mypy and ruff, of a checkout that is one's own


def _programs() -> Iterator[Path]:
    yield ROOT / "bioengine"
    for folder in ("server", "model_runner", "deploy"):
        for path in sorted((ROOT / folder).rglob("*")):
            is_program = path.suffix == ".py" or path.name == "Dockerfile" or path.parent.name in ("containers", "caddy")
            if path.is_file() and is_program and path.parent != _CHECKS:
                yield path


def _taking_from_the_working_folder(text: str) -> list[str]:
    found = [hit[0] for hit in _IN_LIST.finditer(text) if not _KEPT_OUT.search(text[: hit.start()])]
    lines = [line for line in text.splitlines() if "`" not in line and not line.startswith("    python -")]
    return found + [hit[0] for line in lines for hit in _ON_LINE.finditer(line) if not re.search(r"-[PI]\b", hit[1])]


def test_no_program_starts_python_with_the_working_folder_on_its_path() -> None:
    found = {str(path.relative_to(ROOT)): _taking_from_the_working_folder(path.read_text()) for path in _programs()}
    assert {"bioengine", "server/Dockerfile", "deploy/environments.py", "deploy/containers/bioengine"} <= set(found)
    assert {name: hits for name, hits in found.items() if hits} == {}
    assert len(_taking_from_the_working_folder('run([python, "-m", "venv"])\nexec python -m pip\nRUN python3 -m venv x')) == 3


def test_the_command_runs_nothing_of_the_folder_it_is_started_in(tmp_path: Path) -> None:
    """Whoever unpacks a model somewhere and lists the store from there runs no file of that folder."""
    there = tmp_path / "downloads"
    there.mkdir()
    witness = tmp_path / "ran"
    for name in ("typer", "encodings", "yaml", "argparse", "sitecustomize", "bioengine_server"):
        (there / f"{name}.py").write_text(f"open({str(witness)!r}, 'w').write({name!r})\nraise SystemExit(3)\n")
    done = subprocess.run(
        [str(ROOT / "bioengine"), "models", "list", "--home", str(tmp_path / "home")],
        cwd=there,
        env={**os.environ, "BIOENGINE_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not witness.exists(), witness.read_text()
    assert done.returncode == 0, done.stdout + done.stderr
