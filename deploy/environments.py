"""Build the project's Python environments and the Triton installation, once.

Run by the `bioengine` executable before anything else is installed, so it uses the standard library only:

    python environments.py NAME [NAME ...]

("clients" stands for all of the tests') builds each environment that is missing or whose requirements have changed, reports
to stderr, and prints the folder that holds them. An environment counts as built only when its stamp, written last, matches
the hash of all it was built from; whatever an interrupted build left is removed and built again (pip's cache makes that
quick).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class BuildFailed(Exception):
    """An environment could not be built; the message says which, why and what to do."""


@dataclass(frozen=True)
class Environment:
    """One environment: what it is built from (for the hash) and how."""

    name: str
    title: str
    sources: tuple[Path, ...]
    build: Callable[[Path], Iterator[str]]

    def digest(self) -> str:
        digest = hashlib.sha256(f"{sys.version} {sys.executable}".encode())
        for source in (Path(__file__), *self.sources):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
        return digest.hexdigest()


def accelerator() -> str:
    """`cpu` or `cuda`: BIOENGINE_ACCELERATOR, or what NVIDIA's driver says when that is `auto` (the default)."""
    wanted = os.environ.get("BIOENGINE_ACCELERATOR", "auto").lower()
    if wanted not in ("auto", "cpu", "cuda"):
        raise BuildFailed(f"BIOENGINE_ACCELERATOR is {wanted!r}; it can be auto, cpu or cuda.")
    if wanted != "auto":
        return wanted
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if listing.returncode == 0 and "GPU" in listing.stdout else "cpu"


def environments_folder() -> Path:
    """The folder of all environments: BIOENGINE_ENVIRONMENTS, or `.environments` in the checkout."""
    return Path(os.environ.get("BIOENGINE_ENVIRONMENTS") or ROOT / ".environments").absolute()


def virtual_environment(*requirements: Path, sources: Path | None = None) -> Callable[[Path], Iterator[str]]:
    """An environment with the packages of these files, one after the other, and with the project's own in the folder `sources`.

    Lock files (`deploy/lock.py`) name all that they need, with the hashes of its files; nothing else is installed. Other files
    hold what has no hash, since it is another file on each machine.
    """

    def build(folder: Path) -> Iterator[str]:
        yield "creating the environment"
        run([sys.executable, "-I", "-m", "venv", str(folder)])
        python = str(folder / "bin" / "python")
        for file in requirements:
            yield f"installing {file.relative_to(ROOT)}"
            run(pip_install([python], file))
        if sources is not None:
            (packages,) = (folder / "lib").glob("python3.*/site-packages")
            (packages / "bioengine.pth").write_text(f"{sources}\n")

    return build


def pip_install(python: list[str], file: Path) -> list[str]:
    """The command that installs what `file` names and nothing else, with the hashes that a lock file has."""
    # `-I`: nothing in the folder that a person starts this from takes the place of pip's own modules.
    # From wheels alone: a source distribution would be built with packages that no lock file names.
    hashes = ["--require-hashes", "--only-binary=:all:"] if file.suffix == ".lock" else []
    return [
        *(*python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps"),
        *(*hashes, "-r", str(file)),
    ]


def triton_installation(requirements: Path) -> Callable[[Path], Iterator[str]]:
    def build(folder: Path) -> Iterator[str]:
        yield "downloading Triton Inference Server"
        python = sys.executable if has_pip() else str(environments_folder() / "server/bin/python")
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


def npm_packages(description: Path, lock: Path) -> Callable[[Path], Iterator[str]]:
    def build(folder: Path) -> Iterator[str]:
        yield f"installing {lock.relative_to(ROOT)}"
        folder.mkdir()
        for file in (description, lock):
            shutil.copy2(file, folder)
        run(["npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"])

    return build


def has_pip() -> bool:
    return subprocess.run([sys.executable, "-I", "-m", "pip", "--version"], capture_output=True).returncode == 0


def catalogue() -> dict[str, Environment]:
    """Every environment by name. The test environments are built by `bioengine test` only."""
    server, runner, tests = ROOT / "server", ROOT / "model_runner", ROOT / "tests"

    def environment(name: str, title: str, *files: Path, sources: Path | None = None) -> Environment:
        return Environment(name, title, files, virtual_environment(*files, sources=sources))

    packages = tuple(tests / "clients" / "javascript" / name for name in ("package.json", "package-lock.json"))
    triton_lock = server / "requirements-triton.lock"
    environments = (
        environment(
            "server",
            "server environment",
            *(server / f"requirements-{part}.lock" for part in ("test", "no-deps")),
            sources=server,
        ),
        environment(
            "runner",
            f"model runner environment ({accelerator()})",
            *(runner / f"requirements-{accelerator()}-test.lock", runner / "requirements-torch.txt"),
            sources=runner,
        ),
        Environment("triton", "Triton Inference Server", (triton_lock,), triton_installation(triton_lock)),
        *(
            environment(f"client-{name}", f"test client environment ({name})", file)
            for file in sorted((tests / "clients").glob("requirements-*.lock"))
            for name in [file.stem.removeprefix("requirements-")]
        ),
        Environment("client-javascript", "test client packages (JavaScript)", packages, npm_packages(*packages)),
    )
    return {environment.name: environment for environment in environments}


def run(command: list[str]) -> None:
    """Run one build step; its last line of output is shown while it runs, all of it when it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    output: list[str] = []
    for line in process.stdout:
        output.append(line)
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 8
            print(f"\r\033[K      {line.strip()[:width]}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if process.wait() != 0:
        raise BuildFailed(
            f"this step failed:\n  {' '.join(command)}\n{''.join(output[-30:])}\n"
            "Check the network (or the proxy settings of pip), then run the same command again: it goes on from here."
        )


def build(wanted: list[str]) -> Path:
    """Build what is missing of `wanted`, in order, under a lock that a second `bioengine` waits for."""
    folder = environments_folder()
    folder.mkdir(parents=True, exist_ok=True)
    environments = catalogue()
    wanted = [name for group in wanted for name in (client_environments() if group == "clients" else [group])]
    pending = [environments[name] for name in wanted if not is_built(folder, environments[name])]
    if not pending:
        return folder
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pending = [environment for environment in pending if not is_built(folder, environment)]
        for number, environment in enumerate(pending, start=1):
            started = time.monotonic()
            report(f"[{number}/{len(pending)}] {environment.title}")
            target = folder / environment.name
            stamp(folder, environment).unlink(missing_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            for step in environment.build(target):
                report(f"      {step} ...")
            stamp(folder, environment).write_text(environment.digest())
            report(f"      done in {time.monotonic() - started:.0f} s")
    return folder


def client_environments() -> list[str]:
    """The names of the environments with client libraries; without that for JavaScript where npm is not there."""
    names = [name for name in catalogue() if name.startswith("client-")]
    if shutil.which("npm") is None:
        report("npm is not installed: the JavaScript clients are not tested.")
        names.remove("client-javascript")
    return names


def stamp(folder: Path, environment: Environment) -> Path:
    return folder / f"{environment.name}.built"


def is_built(folder: Path, environment: Environment) -> bool:
    try:
        return stamp(folder, environment).read_text() == environment.digest()
    except FileNotFoundError:
        return False


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    try:
        print(build(sys.argv[1:]))
    except BuildFailed as failure:
        report(f"bioengine: {failure}")
        return 1
    except KeyboardInterrupt:
        report("\nbioengine: interrupted; run the same command again to go on.")
        return 130
    except OSError as error:
        report(f"bioengine: cannot build the environments: {error}. BIOENGINE_ENVIRONMENTS names another folder for them.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
