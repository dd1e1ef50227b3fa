"""What the `setup.py` files of the server and of the model runner need from the rest of the checkout to build wheels."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What the installed command needs besides its own package: the programs and lock files that build the environments, and the
# packages that are installed into the model runner's environment.
_SHIPPED_FILES = (
    *(f"deploy/{name}.py" for name in ("building", "environments", "layout", "machine", "recipes", "steps")),
    "deploy/slurm/worker.sbatch",
    *(f"server/requirements-{name}.lock" for name in ("no-deps", "triton")),
    *(
        f"model_runner/requirements-{name}.lock"
        for name in ("cpu", "cuda", "torch-cuda", "convert", "careamics", "labels", "tensorflow")
    ),
    "model_runner/requirements-torch.txt",
    *(f"tests/clients/requirements-{name}.lock" for name in ("hypha", "imjoy")),  # `bioengine bench` uses these client libraries
)
_SHIPPED_PACKAGES = ("contract/bioengine_contract", "model_runner/bioengine_runner")


def version() -> str:
    """The version of all three distributions."""
    return str(runpy.run_path(str(ROOT / "contract" / "bioengine_contract" / "version.py"))["VERSION"])


def requirements(*files: str) -> list[str]:
    """The requirements in these files of the checkout, without duplicates."""
    lines = [line.partition("#")[0].strip() for file in files for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return [*dict.fromkeys(filter(None, lines))]


def contract() -> str:
    """The requirement for the contract, in the same version."""
    return f"bioengine-contract=={version()}"


def copy_checkout(folder: Path) -> None:
    """Copy what the installed command needs to `folder`, laid out as in the checkout (`bioengine_server.project`)."""
    for name in _SHIPPED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for name in _SHIPPED_PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
