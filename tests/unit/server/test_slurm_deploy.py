"""What deploy/slurm has: the job script and the unit of the loop."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.stack.harness import ROOT

FOLDER = ROOT / "deploy" / "slurm"


def run_script(folder: Path, *command: str, **environment: str) -> str:
    """The job script as Slurm runs it; what its command prints."""
    kept = {name: value for name, value in os.environ.items() if name not in ("BIOENGINE_HOME", "TMPDIR")}
    ran = subprocess.run(
        ["sh", str(FOLDER / "worker.sbatch"), *command],
        env={**kept, "SLURM_JOB_ID": "17", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_the_worker_takes_the_place_of_the_script(tmp_path: Path) -> None:
    shell = ["sh", "-c", 'echo $$ "$0" "$1" $BIOENGINE_HOME; umask', "a b", "c"]
    with subprocess.Popen(
        ["sh", str(FOLDER / "worker.sbatch"), *shell],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=60)
    first, mask = said.splitlines()
    assert first.startswith(f"{process.pid} a b c {os.environ.get('BIOENGINE_HOME', f'{tmp_path}/bioengine-')}")
    assert mask == "0077"


def test_a_home_of_the_admins_choice_is_kept(tmp_path: Path) -> None:
    assert run_script(tmp_path, "printenv", "BIOENGINE_HOME", BIOENGINE_HOME="/scratch/b").strip() == "/scratch/b"
    assert run_script(tmp_path, "printenv", "BIOENGINE_HOME").strip().startswith("/tmp/bioengine-")


def test_slurm_is_asked_for_a_signal_in_time() -> None:
    options = [line for line in (FOLDER / "worker.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=B:TERM@120" in options and "#SBATCH --requeue" in options


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "bioengine-slurm.service"
    text = (FOLDER / unit.name).read_text()
    assert "ExecStart=/shared/bioengine/bioengine slurm" in text
    unit.write_text(text.replace("ExecStart=/shared/bioengine/bioengine", f"ExecStart={ROOT}/bioengine"))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_COLORS": "0"}
    command = ["systemd-analyze", "--user", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and unit.name not in done.stderr, done.stdout + done.stderr
