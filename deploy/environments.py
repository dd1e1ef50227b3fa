"""Build the project's Python environments and the Triton installation.

Run by the `bioengine` executable before anything else is installed, so it uses the standard library only:

    python environments.py [--renew | --remove] NAME [NAME ...] [-- ARGUMENTS OF bioengine]

("clients" means all client environments of the tests) reports to stderr, and prints the folder that contains the environments. A
missing environment is built for every command. One that is out of date is rebuilt only with `--renew`, which is the default of
`up`, `setup` and `test`. The new one is built beside the old one, which is used until the new one works, and kept as long as a
process uses it (`layout.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# `python -I` does not add a program's own folder to the path. An installed package is found beside this Python.
sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "server"), str(ROOT / "contract")]

import layout  # noqa: E402
import recipes  # noqa: E402
from bioengine_server.environments import OPTIONAL  # noqa: E402
from bioengine_server.project import IS_INSTALLED, usual_environments  # noqa: E402
from bioengine_server.settings_files import FileSettings, SettingsFileRefused, read_settings_files  # noqa: E402
from building import build_all  # noqa: E402
from recipes import npm_packages, triton_installation, virtual_environment  # noqa: E402
from steps import PYTHON_VERSION, BuildFailed, report  # noqa: E402

_PACKAGES = Path("lib") / f"python{PYTHON_VERSION}" / "site-packages"

RENEWING_COMMANDS = ("up", "setup", "test")
RENEW, REMOVE = "--renew", "--remove"
AGAIN = "--again"  # of `setup`: rebuild also what is up to date


@dataclass(frozen=True)
class Environment:
    """One environment: what it is built from (for the digest), how, and for which device. `project`: the folders of the project's
    own packages in it. `after`: the environments that its build uses, where these are built as well."""

    name: str
    title: str
    sources: tuple[Path, ...]
    build: Callable[[Path], Iterator[str]]
    project: tuple[Path, ...] = ()
    built_for: str = "cpu"
    after: tuple[str, ...] = ()

    def digest(self) -> str:
        digest = hashlib.sha256(f"{PYTHON_VERSION} {os.path.realpath(sys.executable)}".encode())
        digest.update(recipes.what_is_done(Path(recipes.__file__).read_text(encoding="utf-8")).encode())
        for source in self.sources:
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
        return digest.hexdigest()

    def found(self, folder: Path) -> Path | None:
        """The existing environment, whether up to date or not, if it works for this checkout, which may have been moved."""
        place = layout.present(folder, self.name)
        if place is None or not self.project:
            return place
        file = next(place.glob("lib/python3.*/site-packages/bioengine.pth"), None)
        paths = [] if file is None else file.read_text().splitlines()
        return place if paths == [str(path) for path in self.project] else None

    def is_current(self, folder: Path) -> bool:
        place = self.found(folder)
        if place is None:
            return False
        if (folder / self.name).is_symlink():
            return layout.is_of(place, self.digest())
        return layout.has_what_is_named(place, self.sources)


@dataclass(frozen=True)
class Options:
    """Which environments a command rebuilds.

    `renew`: also those that are out of date; `again`: all. `settings`: from settings files, for variables that the environment
    does not have. `is_setup`: for `./bioengine setup`, which may ask the user.
    """

    renew: bool
    settings: FileSettings
    again: bool = False
    is_setup: bool = False

    @classmethod
    def of(cls, arguments: list[str], renew: bool = False) -> Options:
        """The options for `./bioengine ARGUMENTS`. Raises SettingsFileRefused."""
        command = arguments[0] if arguments and not {"--help", "-h"} & set(arguments) else ""
        home = next((value for flag, value in itertools.pairwise(arguments) if flag == "--home"), None)
        home = next((argument.removeprefix("--home=") for argument in arguments if argument.startswith("--home=")), home)
        is_setup = command == "setup"
        settings = read_settings_files(home)
        return cls(renew or command in RENEWING_COMMANDS, settings, is_setup and AGAIN in arguments, is_setup)

    def setting(self, name: str) -> str:
        return os.environ.get(name) or self.settings.get(name) or ""


def environments_folder(options: Options) -> Path:
    """The folder of all environments: BIOENGINE_ENVIRONMENTS, or the default."""
    return Path(options.setting("BIOENGINE_ENVIRONMENTS") or usual_environments()).expanduser().absolute()


def accelerator(options: Options, folder: Path) -> str:
    """The device that the model runner's environment has to be built for: `cpu` or `cuda`.

    `auto` asks NVIDIA's driver once. Then the environment stays as it was built until the user decides otherwise: it is not
    rebuilt for the CPU just because the driver does not answer today.
    """
    wanted = (options.setting("BIOENGINE_ACCELERATOR") or "auto").lower()
    if wanted not in ("auto", "cpu", "cuda"):
        raise BuildFailed(f"BIOENGINE_ACCELERATOR is {wanted!r}; expected auto, cpu or cuda.")
    before = layout.built_for(folder, "runner")
    if wanted == "cpu" and before == "cuda" and not options.is_setup:
        return before  # an environment for CUDA can compute on the CPU too
    if wanted != "auto":
        return wanted
    if before is not None and not options.renew:
        return before
    found = driver_has()
    if before is None or before == found:
        return found
    return found if is_agreed(options, before, found) else before


def driver_has() -> str:
    """`cuda` if NVIDIA's driver reports a GPU, `cpu` if it reports none or does not answer."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if listing.returncode == 0 and "GPU" in listing.stdout else "cpu"


def is_agreed(options: Options, before: str, found: str) -> bool:
    """Whether the user wants to rebuild for the device that the driver reports now. Only `setup` asks; others print a note."""
    if found == "cuda":
        what = "NVIDIA's driver reports a GPU now, but the model runner's environment was built for the CPU."
    else:
        what = "The model runner's environment was built for a GPU, but `nvidia-smi` finds none now."
    if options.is_setup and sys.stdin.isatty() and sys.stderr.isatty():
        print(f"{what} Build it for {found}? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    report(f"{what} It is not rebuilt; `BIOENGINE_ACCELERATOR={found} ./bioengine setup` rebuilds it for {found}.")
    return False


def catalogue(accelerator: str = "cpu", folder: Path | None = None) -> dict[str, Environment]:
    """Every environment by name. The test environments are built by `bioengine test` only. `folder`: of the environments."""
    contract, server, runner, tests = ROOT / "contract", ROOT / "server", ROOT / "model_runner", ROOT / "tests"
    # Without links, so that an environment is the same one by whichever path its folder is reached.
    packages_of_runner = (folder or Path(usual_environments())).resolve() / "runner" / _PACKAGES

    def environment(
        name: str,
        title: str,
        *files: Path,
        sources: tuple[Path, ...] = (),
        imports: str = "",
        built_for: str = "cpu",
        if_torch_needs_cuda: Path | None = None,
        after: tuple[str, ...] = (),
    ) -> Environment:
        recipe = virtual_environment(*files, sources=sources, imports=imports, if_torch_needs_cuda=if_torch_needs_cuda)
        return Environment(name, title, files, recipe, sources, built_for, after)

    def beside_runner(name: str, title: str, imports: str, *others: str) -> Environment:
        """Beside its own packages, and those of the lock files of `others`, it uses those of the model runner's environment."""
        locks = (runner / f"requirements-{each}.lock" for each in (*others, name))
        sources = (runner, contract, packages_of_runner)
        return environment(name, title, *locks, sources=sources, imports=imports, after=("runner",))

    packages = tuple(tests / "clients" / "javascript" / name for name in ("package.json", "package-lock.json"))
    triton_lock = server / "requirements-triton.lock"
    # An installed server already has its own environment, except what pip cannot install beside the rest, and has no tests.
    server_locks, of_server = (["no-deps"], ()) if IS_INSTALLED else (["test", "no-deps"], (server, contract))
    of_tests = "" if IS_INSTALLED else "-test"
    environments = (
        environment(
            "server",
            "server environment",
            *(server / f"requirements-{part}.lock" for part in server_locks),
            sources=of_server,
            imports="" if IS_INSTALLED else "bioengine_server.stack",
        ),
        environment(
            "runner",
            f"model runner environment ({accelerator})",
            *(runner / f"requirements-{accelerator}{of_tests}.lock", runner / "requirements-torch.txt"),
            sources=(runner, contract),
            imports="bioengine_runner.inference, torch, onnxruntime",
            built_for=accelerator,
            if_torch_needs_cuda=runner / "requirements-torch-cuda.lock" if accelerator == "cpu" else None,
        ),
        beside_runner("labels", "environment with StarDist and Cellpose", "stardist, cellpose.models, bioengine_runner"),
        beside_runner(
            "convert",
            "environment for the conversion of PyTorch models",
            "onnx, bioengine_runner.conversion.torchvision_operators as it; it.define(); import torchvision, timm",
        ),
        beside_runner(
            "careamics",
            "environment for the conversion of PyTorch models of CAREamics",
            "bioengine_runner.conversion.torchvision_operators as it; it.define(); import careamics.models.unet, timm",
            "convert",
        ),
        beside_runner(
            "tensorflow",
            "environment for the conversion of TensorFlow and Keras models",
            "tensorflow, tf_keras, tf2onnx.convert, bioengine_runner.conversion.samples",
        ),
        Environment("triton", "Triton Inference Server", (triton_lock,), triton_installation(triton_lock), after=("server",)),
        *(
            environment(f"client-{name}", f"test client environment ({name})", file)
            for file in sorted((tests / "clients").glob("requirements-*.lock"))
            for name in [file.stem.removeprefix("requirements-")]
        ),
        Environment("client-javascript", "test client packages (JavaScript)", packages, npm_packages(*packages)),
    )
    return {environment.name: environment for environment in environments}


def bring_about(names: list[str], options: Options) -> Path:
    """Build the environments `names` if the options require it; returns the folder that contains them."""
    folder = environments_folder(options)
    folder.mkdir(parents=True, exist_ok=True)
    known = catalogue(accelerator(options, folder), folder)
    # From when an admin adds an optional environment, it is kept up to date like the others.
    added = [name for name in OPTIONAL if name not in names and layout.present(folder, name) is not None]
    wanted = [known[name] for name in [*names_of(names), *added]]

    def pending() -> list[Environment]:
        return [each for each in wanted if options.again or not is_good_enough(each, folder, options)]

    if pending():
        with alone(folder):
            concerned = wanted if options.renew else pending()
            take_over(concerned, folder)
            to_build = pending()
            build_all(to_build, folder, options.again)
            if remove_unused(concerned, folder) and to_build:
                report("A running server keeps using the old environments: restart it to use the new ones.")
    elif options.renew and os.access(folder, os.W_OK) and any(needs_upkeep(folder, each.name) for each in wanted):
        with contextlib.suppress(BlockingIOError), alone(folder, wait=False):
            take_over(wanted, folder)
            remove_unused(wanted, folder)
    tell_what_is_out_of_date(wanted, folder)
    return folder


def remove(names: list[str], options: Options) -> Path:
    """Remove environments; what a process still uses is removed with the next build. Returns the folder that contained them."""
    folder = environments_folder(options)
    with alone(folder):
        for name in names:
            (folder / name).unlink(missing_ok=True)
            if layout.remove_unused(folder, name):
                report(f"The environment {name} is still in use: its files stay until its process has ended.")
    return folder


def is_good_enough(environment: Environment, folder: Path, options: Options) -> bool:
    """Whether a command can use the existing environment: it must be up to date if the command renews, else it must only work."""
    return environment.is_current(folder) if options.renew else environment.found(folder) is not None


def take_over(environments: list[Environment], folder: Path) -> None:
    for environment in environments:
        current = environment.is_current(folder)
        layout.take_over(folder, environment.name, environment.digest() if current else None)


def remove_unused(environments: list[Environment], folder: Path) -> list[Path]:
    """Remove environments that are out of date; returns those that have to stay because a process uses them."""
    return [place for environment in environments for place in layout.remove_unused(folder, environment.name)]


def needs_upkeep(folder: Path, name: str) -> bool:
    """Whether there is an environment of the first layout, or an earlier build that may be removable."""
    return not (folder / name).is_symlink() or len(layout.builds(folder, name)) > 1


def tell_what_is_out_of_date(environments: list[Environment], folder: Path) -> None:
    old = []
    for environment in environments:
        if not environment.is_current(folder):
            is_for = layout.built_for(folder, environment.name)
            other = "" if is_for == environment.built_for else f", but built for {is_for}"
            old.append(environment.title + other)
    if old:
        report(f"Out of date, but used as it is: {'; '.join(old)}. `./bioengine setup` brings it up to date.")


@contextlib.contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[None]:
    """Allow only one build at a time: a second `bioengine` waits for the first, or raises BlockingIOError."""
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            report("Waiting for another bioengine process that builds the environments ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def names_of(wanted: list[str]) -> list[str]:
    return [name for group in wanted for name in (client_environments() if group == "clients" else [group])]


def client_environments() -> list[str]:
    """The names of the environments with client libraries; without the one for JavaScript if npm is not installed."""
    names = [name for name in catalogue() if name.startswith("client-")]
    if shutil.which("npm") is None:
        report("npm is not installed: the JavaScript clients are not tested.")
        names.remove("client-javascript")
    return names


def main() -> int:
    own = list(itertools.takewhile(lambda argument: argument != "--", sys.argv[1:]))
    names = [name for name in own if name not in (RENEW, REMOVE)]
    try:
        options = Options.of(sys.argv[len(own) + 2 :], renew=RENEW in own)
        print(remove(names, options) if REMOVE in own else bring_about(names, options))
    except (BuildFailed, SettingsFileRefused) as failure:
        report(f"bioengine: {failure}")
        return 1
    except KeyboardInterrupt:
        report("\nbioengine: interrupted; run the same command again to go on.")
        return 130
    except OSError as error:
        report(f"bioengine: cannot build the environments: {error}. Set BIOENGINE_ENVIRONMENTS to use another folder.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
