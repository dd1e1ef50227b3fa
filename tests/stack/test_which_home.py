"""Commands for another home than that of the running server say so, and reveal nothing about the server's home."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from bioengine_contract.version import VERSION

from tests.stack.harness import ROOT, Stack, bioengine, python

REMARK = "has another home: no server uses"


@pytest.mark.parametrize("command", [("token", "create", "ada"), ("models", "list")])
def test_of_another_home_the_command_says_so(stack: Stack, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = bioengine(*command, "--home", str(tmp_path / "home"), BIOENGINE_PORT=str(stack.port))
    assert done.returncode == 0 and f"The server at {stack.url} {REMARK} {tmp_path / 'home'}" in done.stderr, done.stderr
    assert REMARK not in done.stdout


def test_of_the_servers_home_it_says_nothing(stack: Stack) -> None:
    """Also where the command does not know the server's port."""
    for port in (stack.port, 9):
        done = bioengine("models", "list", "--home", str(stack.home), BIOENGINE_PORT=str(port))
        assert done.returncode == 0 and REMARK not in done.stderr


def test_of_a_home_that_another_server_uses_it_says_nothing(stack: Stack, token_stack: Stack) -> None:
    done = bioengine("token", "list", "--home", str(token_stack.home), BIOENGINE_PORT=str(stack.port))
    assert done.returncode == 0 and REMARK not in done.stderr


def test_strangers_learn_nothing_of_the_home(stack: Stack) -> None:
    with urllib.request.urlopen(f"{stack.url}/health/liveness") as answer:
        name = answer.headers["BioEngine-Server"]
        assert json.loads(answer.read()) == {"status": "OK", "version": VERSION}
    file = stack.home / "server.json"
    assert json.loads(file.read_text())["name"] == name and len(name) == 16 and name != stack.settings.home_digest
    assert file.stat().st_mode & 0o077 == 0


def test_the_model_runners_environment_has_what_these_commands_need(stack: Stack, tmp_path: Path) -> None:
    """As in Triton's container, where there is no other."""
    command = [python("runner"), "-P", "-m", "bioengine_server", "models", "list", "--home", str(tmp_path / "home")]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "server"), "BIOENGINE_PORT": str(stack.port)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and REMARK in done.stderr, done.stderr


def test_doctor_says_so_too(stack: Stack, tmp_path: Path) -> None:
    done = bioengine("doctor", "--home", str(tmp_path / "home"), "--port", str(stack.port), "--offline")
    assert "is ready, but has another home" in " ".join(done.stdout.split())


def test_run_finds_the_server_of_the_home_at_another_port(stack: Stack, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((64, 64), np.float32))
    arguments = ("run", "drawn-nuclei", str(tmp_path / "image.npy"), "-o", str(tmp_path / "mask.npy"))
    done = bioengine(*arguments, BIOENGINE_HOME=str(stack.home), BIOENGINE_PORT="9")
    assert done.returncode == 0 and (tmp_path / "mask.npy").exists(), done.stderr
