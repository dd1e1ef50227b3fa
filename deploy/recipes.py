"""How each kind of environment is built. Any change in this file, except in comments and docstrings, makes all environments
out of date.

A recipe builds into a folder that does not exist yet, and yields a text for each step.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from steps import PYTHON_VERSION, ROOT, run

_TRYING = (
    "The packages are installed, but they do not work here: the last line says why. If it names nothing that you can mend, "
    "report it with all these lines."
)

Recipe = Callable[[Path], Iterator[str]]


# Where torch's CUDA build was installed, it says that it depends on NVIDIA's packages.
NEEDS_CUDA = (
    "import importlib.metadata, sys; sys.exit(any('nvidia' in each for each in importlib.metadata.requires('torch') or ()))"
)


def virtual_environment(
    *requirements: Path, sources: tuple[Path, ...] = (), imports: str = "", if_torch_needs_cuda: Path | None = None
) -> Recipe:
    """An environment with the packages in these files, installed in this order, and the project's own in the folders `sources`.

    Lock files (`deploy/lock.py`) name all packages that are needed, with the hashes of their files; nothing else is installed.
    Other files name packages without a hash, because their files differ between machines. `imports`: modules that are imported
    at the end, as a test. `if_torch_needs_cuda`: a lock file with the libraries that torch's build for CUDA cannot be imported
    without; they are installed where pip found no other build.
    """

    def build(folder: Path) -> Iterator[str]:
        yield "creating the environment"
        run([sys.executable, "-I", "-m", "venv", str(folder)])
        python = str(folder / "bin" / "python")
        for file in requirements:
            yield f"installing {file.relative_to(ROOT)}"
            run(pip_install([python], file))
        if if_torch_needs_cuda is not None and subprocess.run([python, "-I", "-c", NEEDS_CUDA]).returncode != 0:
            yield (
                "installing the libraries of PyTorch's build for CUDA (2 GB), because pip found no build for the CPU alone; "
                "docs/admins.md says how to have that one"
            )
            run(pip_install([python], if_torch_needs_cuda))
        if sources:
            (packages,) = (folder / "lib").glob("python3.*/site-packages")
            (packages / "bioengine.pth").write_text("".join(f"{source}\n" for source in sources))
        if imports:
            yield "trying it"
            run([python, "-I", "-c", f"import {imports}"], _TRYING)

    return build


def pip_install(python: list[str], file: Path) -> list[str]:
    """The command that installs the packages in `file` and nothing else, and verifies the hashes of a lock file."""
    # `-I`: no file in the current folder can replace one of pip's own modules.
    # Only from wheels: a source distribution would be built with packages that are in no lock file.
    hashes = ["--require-hashes", "--only-binary=:all:"] if file.suffix == ".lock" else []
    return [
        *(*python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps"),
        *(*hashes, "-r", str(file)),
    ]


def triton_installation(requirements: Path) -> Recipe:
    def build(folder: Path) -> Iterator[str]:
        yield "downloading Triton Inference Server"
        has_pip = subprocess.run([sys.executable, "-I", "-m", "pip", "--version"], capture_output=True).returncode == 0
        python = sys.executable if has_pip else str(folder.parent / "server" / "bin" / "python")
        run([*pip_install([python], requirements), "--target", str(folder / "wheel")])
        yield "placing the Python backend"
        server = folder / "wheel" / "pytriton" / "tritonserver"
        backend = folder / "backends" / "python"
        shutil.copytree(server / "backends" / "python", backend)
        stub = backend / "triton_python_backend_stub"
        shutil.copy2(server / "python_backend_stubs" / PYTHON_VERSION / stub.name, stub)
        (folder / "bin").mkdir()
        (folder / "bin" / "tritonserver").symlink_to(os.path.relpath(server / "bin" / "tritonserver", folder / "bin"))
        (folder / "lib").symlink_to("wheel/nvidia_pytriton.libs")
        # The stub loads libpython; a Python outside the system's library path (pyenv, conda) has it in its own folder.
        library = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere") / f"libpython{PYTHON_VERSION}.so.1.0"
        (folder / "python").mkdir()
        if library.is_file():
            (folder / "python" / library.name).symlink_to(library)

    return build


def npm_packages(description: Path, lock: Path) -> Recipe:
    def build(folder: Path) -> Iterator[str]:
        yield f"installing {lock.relative_to(ROOT)}"
        folder.mkdir()
        for file in (description, lock):
            shutil.copy2(file, folder)
        run(["npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"])

    return build


def what_is_done(source: str) -> str:
    """A program without its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
