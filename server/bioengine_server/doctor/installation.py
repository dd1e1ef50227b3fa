"""What is installed, the model store, the secrets."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from bioengine_contract.trust import trust_entry
from bioengine_contract.version import VERSION

from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access, access_of
from bioengine_server.doctor.finding import Finding
from bioengine_server.doctor.setup import Setup
from bioengine_server.private_folder import others_may
from bioengine_server.settings_files import HOME_FILE, read_settings_files
from bioengine_server.settings_names import remarks
from bioengine_server.store.errors import StoreError
from bioengine_server.store.model_store import ModelStore

_SERVER = ("hypha", "hypha-rpc", "imjoy-rpc", "tritonclient", "bioimageio.spec", "numpy")
_RUNNER = ("bioimageio.core", "bioimageio.spec", "numpy", "onnxruntime", "onnxruntime-gpu", "torch")
_ASK = f"""
import json, os, platform
from importlib.metadata import PackageNotFoundError, version
found = {{"Python": platform.python_version()}}
for name in {_RUNNER!r}:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime, torch
found["gpu"] = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and torch.cuda.is_available()
print(json.dumps(found))
"""
_SECRETS = {"BIOENGINE_TOKEN", "BIOENGINE_TRITON_SECRET"}
_PATIENCE = 120.0  # seconds; importing torch from a slow disk takes long


def settings_files(setup: Setup) -> Iterator[Finding]:
    """Which files settings were read from, and whether others can read secrets in them."""
    given = read_settings_files(setup.settings.home)
    if not given.files:
        yield Finding("settings files", "ok", f"none: neither {given.home / HOME_FILE} nor that of the machine exists")
    for file in given.files:
        found = f"{file.path}: {', '.join(sorted(file.values)) or 'empty'}"
        if _SECRETS & set(file.values) and file.path.stat().st_mode & 0o044:
            yield Finding("settings files", "problem", f"{found}; others can read it", f"chmod go-r '{file.path}'")
        else:
            yield Finding("settings files", "ok", found)
    for remark in remarks(given):
        yield Finding("settings", "note", remark, "Correct it or remove it.")


def env_file(setup: Setup) -> Iterator[Finding]:
    """The settings in `.env`, which a user may expect to be examined."""
    if setup.env_only:
        advice = (
            f"For ./bioengine, put them into {setup.settings.home / HOME_FILE}. "
            "Those of the containers are checked by `docker compose exec server bioengine doctor`."
        )
        found = f"{', '.join(setup.env_only)}: only for the containers, so not checked here"
        yield Finding(".env", "note", found, advice)


def versions(setup: Setup) -> Iterator[Finding]:
    """The versions in the server's environment and, if it is on this machine, the model runner's."""
    yield Finding("server", "ok", _listed({"BioEngine": VERSION, "Python": platform.python_version(), **_installed(_SERVER)}))
    runner = setup.settings.environments / "runner" / "bin" / "python"
    if not runner.exists():
        yield Finding(
            "model runner", "note", "not in this environment", "With containers, it is in Triton's container; run `doctor` there."
        )
        return
    asked = subprocess.run([str(runner), "-c", _ASK], capture_output=True, text=True, timeout=_PATIENCE)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        advice = "`./bioengine setup --again` rebuilds the environments."
        yield Finding("model runner", "problem", f"its environment does not work: {reason}", advice)
        return
    found = json.loads(asked.stdout)
    has_gpu = found.pop("gpu")
    yield Finding("model runner", "ok", _listed(found))
    if (wanted := setup.gpu_here) and not has_gpu:
        advice = f"`{wanted} ./bioengine setup` rebuilds it for the GPU. See also GPU above."
        yield Finding("model runner", "problem", f"{wanted} requires a GPU, but this environment cannot use one", advice)


def store(setup: Setup) -> Iterator[Finding]:
    """Whether all files of the stored models exist, and whether the trusted packages are stored."""
    settings = setup.settings
    if not settings.store.is_dir():
        yield Finding("model store", "ok", f"{settings.store}: none yet, created at the first start")
        return
    try:
        models = [model for model in ModelStore(settings.store).models()]
    except StoreError as error:
        yield Finding("model store", "problem", str(error), "Import the packages again, or restore the folder from a back-up.")
        return
    for model in models:
        if missing := [name for name in model.manifest.stored_files if not (model.folder / name).is_file()]:
            advice = f"Get it again: `./bioengine models pull {model.manifest.id}`, or import its package."
            yield Finding("model store", "problem", f"{model.manifest.id} lacks {', '.join(sorted(missing)[:3])}", advice)
    if not os.access(settings.store, os.W_OK):
        yield Finding("model store", "note", f"{settings.store} is read-only here", "No model can be added from here.")
    if unknown := settings.trusted - {trust_entry(model.manifest) for model in models}:
        entries = ", ".join(sorted(entry[:24] + "…" for entry in unknown))
        advice = "`./bioengine models show ID` prints the entry of a model with its present content."
        yield Finding("trusted models", "note", f"no stored package has the content of {entries}", advice)
    yield Finding("model store", "ok", f"{settings.store}: {len(models)} models")


def access(setup: Setup) -> Iterator[Finding]:
    """Who may run models, and whether those who need a token can have one."""
    tokens = TokenRegistry(setup.settings.home).all()
    valid = [token for token in tokens if token.state == "valid"]
    found = f"{access_of(setup.settings)}; valid tokens: {len(valid)}"
    if Access(setup.settings, None).all_need_token and not valid:
        yield Finding("access", "note", found, "Nobody can run a model yet: `./bioengine token create NAME` makes a token.")
    else:
        yield Finding("access", "ok", found)


def secrets(setup: Setup) -> Iterator[Finding]:
    """Whether other users can read the secrets."""
    folder = setup.settings.home / "secrets"
    files = [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    if open_to_others := [file for file in files if others_may(file.stat())]:
        names = " ".join(map(str, open_to_others))
        yield Finding("secrets", "problem", f"others can read {names}", f"chmod 600 {names}")
    elif files:
        yield Finding("secrets", "ok", f"{folder}: {len(files)}, readable by their owner only")
    else:
        yield Finding("secrets", "ok", f"{folder}: none yet, created at the first start")


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
