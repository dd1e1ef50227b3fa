"""Make the lock files: every package of an environment with its exact version and the hashes of its files.

    python3.11 deploy/lock.py                          after a change of a requirements*.txt: other versions stay
    python3.11 deploy/lock.py --upgrade NAME ...       upgrade these packages to the newest version that the files allow
    python3.11 deploy/lock.py --upgrade                upgrade all of them

A `requirements*.txt` says what is wanted and why, a `requirements*.lock` what is installed (`deploy/environments.py`, the
Dockerfiles), by `pip install --require-hashes`. The same holds for `package.json` and `package-lock.json` of the tests' pages.
uv does the work, in an environment of its own (`.environments/uv`), for Python 3.11 and 3.12 at once; it needs the package
index.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER, RUNNER, CLIENTS = ROOT / "server", ROOT / "model_runner", ROOT / "tests" / "clients"
JAVASCRIPT = CLIENTS / "javascript"

# The platform that the project runs on: packages of other systems are not needed.
PLATFORM = (
    "sys_platform == 'linux' and platform_system == 'Linux' and platform_machine == 'x86_64'"
    " and platform_python_implementation == 'CPython' and python_full_version < '3.13'"
)
# Conditions of this platform that uv adds to packages; they are always true here.
_SAID = (
    "platform_machine == 'x86_64'",
    "platform_python_implementation == 'CPython'",
    "sys_platform == 'linux'",
    "python_full_version < '3.13'",
    "python_full_version < '3.14'",
    "implementation_name != 'PyPy'",
)


@dataclass(frozen=True)
class Lock:
    """A lock file.

    `sources`: the requirements files that it is made from. `base`: a lock file whose versions it has to use too.
    `with_dependencies`: whether it contains the dependencies of its packages. `left_out`: packages that another step installs;
    `without`: a lock file whose packages are left out too.
    """

    file: Path
    sources: tuple[Path, ...]
    base: Path | None = None
    with_dependencies: bool = True
    left_out: tuple[str, ...] = ()
    without: Path | None = None

    def not_in_it(self) -> tuple[str, ...]:
        """The packages that are left out."""
        text = "" if self.without is None else self.without.read_text()
        return (*self.left_out, *dict.fromkeys(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)))


def _runner(accelerator: str) -> tuple[Lock, Lock]:
    files = tuple(RUNNER / f"requirements{part}.txt" for part in ("", f"-{accelerator}", "-commands"))
    image = RUNNER / f"requirements-{accelerator}.lock"
    tests = RUNNER / f"requirements-{accelerator}-test.lock"
    left_out = ("torch",)
    return (
        Lock(image, files, left_out=left_out),
        Lock(tests, (*files, RUNNER / "requirements-test.txt"), base=image, left_out=left_out),
    )


LOCKS = (
    Lock(ROOT / "deploy" / "requirements-lock.lock", (ROOT / "deploy" / "requirements-lock.txt",)),
    Lock(SERVER / "requirements.lock", (SERVER / "requirements.txt",)),
    Lock(
        SERVER / "requirements-test.lock",
        (SERVER / "requirements.txt", SERVER / "requirements-test.txt"),
        base=SERVER / "requirements.lock",
    ),
    Lock(SERVER / "requirements-no-deps.lock", (SERVER / "requirements-no-deps.txt",), with_dependencies=False),
    Lock(SERVER / "requirements-triton.lock", (SERVER / "requirements-triton.txt",), with_dependencies=False),
    *_runner("cpu"),
    *_runner("cuda"),
    # What torch's build for CUDA cannot be imported without, for machines without GPU whose pip finds no other build.
    Lock(
        RUNNER / "requirements-torch-cuda.lock",
        (RUNNER / "requirements-cuda.txt",),
        base=RUNNER / "requirements-cuda.lock",
        left_out=("torch", "onnxruntime-gpu"),
        without=RUNNER / "requirements-cpu.lock",
    ),
    # All that is not in the runner's environment, by name: with their dependencies, they would bring a torch or TensorFlow more.
    *(
        Lock(RUNNER / f"requirements-{name}.lock", (RUNNER / f"requirements-{name}.txt",), with_dependencies=False)
        for name in ("convert", "careamics", "labels", "tensorflow")
    ),
    *(Lock(source.with_suffix(".lock"), (source,)) for source in sorted(CLIENTS.glob("requirements-*.txt"))),
)


def lock(uv: Path, lock: Lock, upgrade: list[str] | None) -> None:
    """Write a lock file. `upgrade`: the packages to upgrade, an empty list for all; None: change only what has to change."""
    moves = [] if upgrade is None else [f"--upgrade-package={name}" for name in upgrade] or ["--upgrade"]
    with tempfile.TemporaryDirectory() as name:
        # uv reads the platform from a project file, and the present versions from the file that it overwrites.
        folder = Path(name)
        (folder / "pyproject.toml").write_text(f'[tool.uv]\nenvironments = ["{PLATFORM}"]\n')
        output = folder / lock.file.name
        if lock.file.exists():
            shutil.copyfile(lock.file, output)
        if lock.base is not None:
            (folder / "base.txt").write_text(lock.base.read_text())
        command = [
            str(uv), "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes", "--no-header",
            "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", f"--output-file={output}", *moves,
            *(f"--no-emit-package={package}" for package in lock.not_in_it()),
            *(["--constraints=base.txt"] if lock.base is not None else []),
            *([] if lock.with_dependencies else ["--no-deps"]),
            *map(str, lock.sources),
        ]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True)
        lock.file.write_text(header(lock) + without_platform(output.read_text()))


def header(lock: Lock) -> str:
    sources = ", ".join(source.name for source in lock.sources)
    return f"# Made by deploy/lock.py of {sources}; not to be edited.\n"


def without_platform(text: str) -> str:
    """Remove the conditions of a package's marker that are always true on the project's platform."""

    def shorter(found: re.Match[str]) -> str:
        if " or " in found[2]:
            return found[0]
        left = [part for part in found[2].split(" and ") if part not in _SAID]
        return f"{found[1]} ; {' and '.join(left)} \\" if left else f"{found[1]} \\"

    return re.sub(r"^(\S+) ; (.+) \\$", shorter, text, flags=re.MULTILINE)


def lock_javascript(upgrade: list[str] | None) -> None:
    """Write `package-lock.json`, without the URLs of the registry that was used."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / JAVASCRIPT.name  # npm writes the folder's name into the file
        folder.mkdir()
        for file in ("package.json", *(["package-lock.json"] if upgrade != [] else [])):
            if (JAVASCRIPT / file).exists():
                shutil.copyfile(JAVASCRIPT / file, folder / file)
        subprocess.run(
            ["npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True
        )
        document = json.loads((folder / "package-lock.json").read_text())
    for package in document["packages"].values():
        package.pop("resolved", None)
    (JAVASCRIPT / "package-lock.json").write_text(json.dumps(document, indent=2) + "\n")


def own_uv() -> Path:
    """The path of uv, installed in the version of its own lock file."""
    folder = Path(os.environ.get("BIOENGINE_ENVIRONMENTS") or ROOT / ".environments") / "uv"
    if not (folder / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-I", "-m", "venv", str(folder)], check=True)
    wanted = LOCKS[0].file if LOCKS[0].file.exists() else LOCKS[0].sources[0]
    options = ["--require-hashes"] if wanted.suffix == ".lock" else []
    pip = [str(folder / "bin" / "python"), "-I", "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", *options, "-r", str(wanted)], check=True)
    return folder / "bin" / "uv"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", nargs="*", metavar="NAME", help="packages to upgrade; all, if none are named")
    upgrade = parser.parse_args().upgrade
    uv = own_uv()
    for each in LOCKS:
        print(each.file.relative_to(ROOT), flush=True)
        lock(uv, each, upgrade)
    if shutil.which("npm") is None:
        print("npm is not installed: package-lock.json stays as it is.")
    else:
        print((JAVASCRIPT / "package-lock.json").relative_to(ROOT), flush=True)
        lock_javascript(upgrade)


if __name__ == "__main__":
    main()
