"""How this machine is protected from models, and the server from other users."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bioengine_server.doctor.finding import Finding, Verdict
from bioengine_server.doctor.setup import Setup
from bioengine_server.environments import can_build
from bioengine_server.other_users import other_users
from bioengine_server.private_folder import others_may
from bioengine_server.store.conversion import environment_for, has_environment, is_wanted
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.triton.orphans import processes_of

_PATIENCE = 60.0  # seconds
_FILTERED = "2"  # /proc/<pid>/status: a seccomp filter is in force


def confinement(setup: Setup) -> Iterator[Finding]:
    """Whether models are confined from files, programs and the network."""
    settings = setup.settings
    if settings.triton == "workers":
        return
    if settings.triton_is_elsewhere:
        found = "of Triton in another container; its log says what confines it"
        yield Finding("confinement", "note", found, "`docker compose logs triton | grep -i confined`")
        return
    if settings.confine == "off":
        advice = "Models run with all rights of the user who started the server. Set BIOENGINE_CONFINE=auto."
        yield Finding("confinement", "note", "switched off by BIOENGINE_CONFINE=off", advice)
        return
    python = settings.environments / "runner" / "bin" / "python"
    if not python.exists():
        return  # `versions` says so
    asked = subprocess.run(
        [str(python), "-P", "-m", "bioengine_runner.confinement", settings.accelerator],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    used = json.loads(asked.stdout)
    if lacks := used["lacks"]:
        verdict: Verdict = "problem" if settings.confine == "require" else "note"
        found, advice = f"the kernel has {used['kernel']}", "Linux 6.12 or later supports all of it."
        if error := used["cuda_error"]:
            found += f", of which {used['has']} is used: NVIDIA's driver does not start with more (CUDA's error {error})"
            advice = "Please report this, with the driver's version; or leave the card alone with BIOENGINE_ACCELERATOR=cpu."
        yield Finding("confinement", verdict, f"{found}; models can still {'; '.join(lacks)}", advice)
    else:
        found = (
            f"the kernel has {used['kernel']}: Triton and models can access neither the user's files nor the network, and the "
            "process of each model neither other packages nor programs"
        )
        yield Finding("confinement", "ok", found)
    for process in processes_of(settings.shm_prefix):
        if process.name() == "tritonserver" and not _is_confined(process.pid):
            found = f"the Triton that runs now (process {process.pid}) is not confined"
            yield Finding(
                "confinement", "problem", found, "Restart the server; if it is still not confined, Triton's log says why."
            )


def conversion(setup: Setup) -> Iterator[Finding]:
    """Whether models can be converted, if there are any that need it, and in which sandbox."""
    settings, subject = setup.settings, "conversion"
    models: list[StoredModel] = []
    with contextlib.suppress(OSError, ValueError):  # a store that cannot be read is a finding of its own
        models = ModelStore(settings.store).models()
    waiting = [model.manifest for model in models if is_wanted(model.manifest)]
    untold = [manifest for manifest in waiting if not has_environment(settings, manifest)]
    if untold and can_build():
        found = f"stored models whose weights are not converted to ONNX yet: {len(untold)}"
        needed = sorted({environment_for(manifest.convertible) for manifest in untold if manifest.convertible})
        adding = ", ".join(f"`./bioengine environments add {name}`" for name in needed)
        yield Finding(subject, "note", found, f"{adding}, then `./bioengine models convert --all`")
    elif untold:
        found = f"stored models whose weights have to be converted to ONNX elsewhere: {len(untold)}"
        yield Finding(subject, "note", found, 'docs/containers.md, "Add models"')
    elif waiting:
        found = f"stored models whose weights were not converted to ONNX: {len(waiting)}"
        yield Finding(subject, "note", found, f"`./bioengine models show {waiting[0].id}` says why, or how to try it.")
    else:
        yield Finding(subject, "ok", "no stored model needs it; code of packages would run in a sandbox of its own (SECURITY.md)")


def users(setup: Setup) -> Iterator[Finding]:
    """Whether other users of this machine can reach Triton."""
    settings, others = setup.settings, other_users()
    if settings.triton_is_elsewhere or settings.triton == "workers":
        return
    if not settings.triton_port:
        found = f"{others}: Triton listens on a socket that they cannot open" if others else "none"
        yield Finding("other users", "ok", found)
    elif others:
        found = f"{others}: they can reach Triton on port {settings.triton_port}, and can read its secret from its command line"
        yield Finding(
            "other users", "note", found, "Remove BIOENGINE_TRITON_PORT: Triton then listens where they cannot reach it."
        )
    else:
        yield Finding("other users", "ok", f"none, who could reach Triton on port {settings.triton_port}")


def home(setup: Setup) -> Iterator[Finding]:
    """Whether other users can read or change the files in the home."""
    folder = setup.settings.home
    if not folder.is_dir():
        yield Finding("home", "ok", f"{folder}: none yet, created at the first start for its owner only")
        return
    advice = f"chmod 700 {folder}"
    if writable := [path for path in (folder, folder / "models", folder / "triton-models") if _others_write(path)]:
        yield Finding(
            "home", "problem", f"others can change what is in {writable[0]}", f"chmod go-w {' '.join(map(str, writable))}"
        )
    elif others_may(folder.stat()):
        yield Finding("home", "note", f"others can look into {folder}, though not into its secrets", advice)
    else:
        yield Finding("home", "ok", f"{folder}: accessible only to its owner")


def _others_write(path: Path) -> bool:
    return path.is_dir() and bool(others_may(path.stat()) & 0o022)


def _is_confined(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return f"Seccomp:\t{_FILTERED}" in status and bool(re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE))
