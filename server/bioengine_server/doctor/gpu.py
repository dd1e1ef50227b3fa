"""NVIDIA's driver, whether models' libraries can use its cards, and Docker with NVIDIA's container toolkit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

from bioengine_server.doctor.finding import Finding
from bioengine_server.doctor.setup import Setup

_PATIENCE = 20.0  # seconds
_IMPORTS_PATIENCE = 120.0  # seconds; torch takes its time from a slow disk
_NO_GPU = (
    "Install NVIDIA's driver (`sudo ubuntu-drivers install`, then restart), until `nvidia-smi` lists the card; or compute on the "
    "CPU: remove BIOENGINE_ACCELERATOR and BIOENGINE_RUNTIME."
)
_NO_TOOLKIT = (
    "Install the NVIDIA Container Toolkit, then: `sudo nvidia-ctk runtime configure --runtime=docker && "
    "sudo systemctl restart docker`. Or compute on the CPU: remove BIOENGINE_RUNTIME."
)


def driver(setup: Setup) -> Iterator[Finding]:
    """The GPUs, and the version of their driver."""
    if setup.settings.triton_is_elsewhere:
        advice = (
            "Ask there; with containers: `docker compose exec triton nvidia-smi`, and of the libraries "
            "`docker compose exec triton python -P -m bioengine_runner.cards`."
        )
        yield Finding("GPU", "note", f"models compute at {setup.settings.triton}", advice)
        return
    wanted = setup.wants_gpu
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError:
        answer = None
    except subprocess.TimeoutExpired:
        advice = "The driver hangs: restart the machine; `dmesg | grep -i nvrm` may say why."
        yield Finding("GPU", "problem", "nvidia-smi does not answer", advice)
        return
    cards = answer.stdout.strip().splitlines() if answer is not None and answer.returncode == 0 else []
    if cards:
        for card in cards:
            yield Finding("GPU", "ok", card)
    elif answer is not None:
        reason = (answer.stdout + answer.stderr).strip().splitlines() or ["no reason given"]
        yield Finding("GPU", "problem", f"nvidia-smi says: {reason[0][:200]}", _NO_GPU)
    elif wanted:
        yield Finding("GPU", "problem", f"NVIDIA's driver is not installed, but a GPU is required by {wanted}", _NO_GPU)
    else:
        yield Finding("GPU", "note", "none: NVIDIA's driver is not installed", "Models compute on the CPU, several times slower.")


def libraries(setup: Setup) -> Iterator[Finding]:
    """Whether the model runner's libraries work with the cards and their driver; the model runner itself examines this."""
    runner = setup.settings.environments / "runner" / "bin" / "python"
    if setup.settings.triton_is_elsewhere or setup.settings.accelerator == "cpu" or not runner.exists():
        return
    command = [str(runner), "-P", "-m", "bioengine_runner.cards"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORTS_PATIENCE)
        said = json.loads(asked.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return  # `installation.versions` reports an environment that does not work
    for card in said["cards"]:
        capability = ".".join(map(str, card["capability"]))
        found = f"{card['name']}: compute capability {capability}, {card['memory'] / 1e9:.0f} GB; driver for CUDA "
        yield Finding("card", "ok", found + ".".join(map(str, said["cuda"])))
    for problem, advice, works in said["problems"]:
        yield Finding("card", "note" if works else "problem", problem, advice)


def docker(setup: Setup) -> Iterator[Finding]:
    """Docker, Docker Compose, and Docker's access to the GPU. They matter only for `docker compose up`."""
    if setup.settings.triton_is_elsewhere:
        return
    if shutil.which("docker") is None:
        yield Finding(
            "Docker", "note", "not installed", "`./bioengine up` does not need it. For containers: `sudo apt install docker.io`."
        )
        return
    engine = _asked("docker", "info", "--format", "{{json .}}")
    information = json.loads(engine) if engine and engine.startswith("{") else {}
    if not information.get("ServerVersion"):
        advice = (
            "`./bioengine up` does not need it. For containers: `sudo systemctl start docker`, and add yourself to the group "
            "docker (`sudo usermod -aG docker $USER`, then log in again)."
        )
        yield Finding("Docker", "note", "installed, but its engine does not answer", advice)
        return
    yield Finding("Docker", "ok", f"engine {information['ServerVersion']}")
    if compose := _asked("docker", "compose", "version", "--short") or _asked("docker-compose", "version", "--short"):
        yield Finding("Docker Compose", "ok", compose)
    else:
        advice = "`sudo apt install docker-compose-v2` (Ubuntu) or `docker-compose` (Debian)."
        yield Finding("Docker Compose", "problem", "not installed", advice)
    if "nvidia" in (information.get("Runtimes") or {}):
        yield Finding("container toolkit", "ok", "Docker has the runtime nvidia")
    elif wanted := setup.gpu_for_containers:
        yield Finding("container toolkit", "problem", f"Docker has no runtime nvidia, but {wanted} requires it", _NO_TOOLKIT)
    else:
        yield Finding("container toolkit", "note", "Docker has no runtime nvidia", "Containers compute on the CPU.")


def _asked(*command: str) -> str:
    """The output of a program; empty if it fails or is not installed."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
