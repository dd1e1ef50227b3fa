"""What `./bioengine` builds, and when: nothing that is there is touched before there is another, nor while somebody uses it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bioengine_server.environments import environment

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The launcher's modules, which are no package."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "deploy"), *sys.path])
    import environments  # type: ignore[import-not-found]
    import layout  # type: ignore[import-not-found]
    import recipes  # type: ignore[import-not-found]
    import steps  # type: ignore[import-not-found]

    return SimpleNamespace(environments=environments, layout=layout, recipes=recipes, steps=steps)


class Setup:
    """A folder of environments for `runner`, `runner-cpu.lock` or `runner-cuda.lock` beside it being what each is built from."""

    def __init__(self, deploy: SimpleNamespace, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deploy, self.root, self.folder = deploy, root, root / "environments"
        self.built: list[str] = []
        self.fails = False
        for accelerator in ("cpu", "cuda"):
            self.lock(accelerator).write_text("numpy==1.0\n" + ("onnxruntime-gpu==1.0\n" if accelerator == "cuda" else ""))
        programs = root / "programs"
        programs.mkdir()
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        monkeypatch.setenv("BIOENGINE_ENVIRONMENTS", str(self.folder))
        monkeypatch.setenv("BIOENGINE_SETTINGS", "")
        monkeypatch.setenv("BIOENGINE_HOME", str(root / "home"))
        monkeypatch.delenv("BIOENGINE_ACCELERATOR", raising=False)
        monkeypatch.setattr(deploy.environments, "catalogue", self.catalogue)

    def lock(self, accelerator: str) -> Path:
        return self.root / f"runner-{accelerator}.lock"

    def catalogue(self, accelerator: str = "cpu", folder: Path | None = None) -> dict[str, Any]:
        lock = self.lock(accelerator)

        def build(folder: Path) -> Iterator[str]:
            yield "making"
            assert not folder.exists()
            self.made(folder, accelerator)
            if self.fails:
                raise self.deploy.steps.BuildFailed("cut off")
            self.built.append(accelerator)

        title, new = f"model runner ({accelerator})", self.deploy.environments.Environment
        return {
            "runner": new("runner", title, (lock,), build, built_for=accelerator),
            "convert": new("convert", "optional", (lock,), build, built_for=accelerator),
        }

    def made(self, folder: Path, accelerator: str) -> None:
        """The packages that the lock file names."""
        packages = folder / "lib" / "python3.11" / "site-packages"
        packages.mkdir(parents=True)
        for line in self.lock(accelerator).read_text().splitlines():
            (packages / f"{line.replace('==', '-').replace('-gpu', '_gpu')}.dist-info").mkdir()

    def run(self, command: str, *names: str) -> None:
        """What `./bioengine COMMAND` does before all else."""
        options = self.deploy.environments.Options.of(command.split())
        self.deploy.environments.bring_about(list(names or ["runner"]), options)

    def remove(self, name: str) -> None:
        self.deploy.environments.remove([name], self.deploy.environments.Options.of([]))

    def driver(self, says: str | None) -> None:
        """NVIDIA's driver, which this machine lacks: what `nvidia-smi -L` prints; None: it fails."""
        program = self.root / "programs" / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\necho '{says}'\n" if says else "#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n"
        )
        program.chmod(0o755)

    @property
    def place(self) -> Path:
        """What is in use."""
        return (self.folder / "runner").resolve()

    def all(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"lock", "runner"}


@pytest.fixture
def setup(deploy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    return Setup(deploy, tmp_path, monkeypatch)


@pytest.fixture
def user(setup: Setup) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts what uses the environment as a server does, until its input ends."""
    code = "import sys; from bioengine_server.environments import environment; from pathlib import Path; "
    code += "print(environment(Path(sys.argv[1]), 'runner'), flush=True); sys.stdin.read()"
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(setup.folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and Path(process.stdout.readline().strip()) == setup.place
        return process

    yield start
    for process in started:
        process.communicate()


@pytest.mark.parametrize(
    "command", ["up", "setup", "test", "run x", "demo", "models list", "doctor", "token create ada", "--help"]
)
def test_what_is_missing_is_built_for_every_command(setup: Setup, command: str) -> None:
    setup.run(command)
    setup.run(command)
    assert setup.built == ["cpu"] and setup.all() == {setup.place.name}


@pytest.mark.parametrize(
    ("command", "builds"), [("up", True), ("setup", True), ("test x", True), ("doctor", False), ("up --help", False)]
)
def test_what_is_out_of_date_is_built_by_three_commands_alone(
    setup: Setup, capsys: pytest.CaptureFixture[str], command: str, builds: bool
) -> None:
    setup.run("up")
    before = setup.place
    setup.lock("cpu").write_text("numpy==2.0\n")
    setup.run(command)
    assert (setup.place != before, len(setup.built)) == ((True, 2) if builds else (False, 1))
    assert ("Out of date, but used as it is: model runner (cpu). `./bioengine setup`" in capsys.readouterr().err) is not builds
    assert before.exists() is not builds, "nobody used it"


def test_a_server_keeps_its_environment_until_it_ends(setup: Setup, user: Any, capsys: pytest.CaptureFixture[str]) -> None:
    setup.run("up")
    before = setup.place
    server = user()
    setup.lock("cpu").write_text("numpy==2.0\n")
    setup.run("setup")
    assert setup.place != before and (before / "built").is_file()
    assert "restart it to use the new ones" in capsys.readouterr().err
    server.communicate()
    setup.run("up")
    assert setup.all() == {setup.place.name} and setup.built == ["cpu", "cpu"]


def test_what_runs_without_a_lock_keeps_its_environment_too(setup: Setup) -> None:
    """As a Python that was started by the environment's path, which has a library of it in memory."""
    setup.run("up")
    before = setup.place
    program = before / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as process:
        setup.lock("cpu").write_text("numpy==2.0\n")
        setup.run("up")
        assert setup.place != before and program.exists()
        process.kill()
    setup.run("up")
    assert not before.exists()


def test_a_process_looks_up_an_environment_once_and_nobody_removes_it(setup: Setup) -> None:
    setup.run("up")
    held = environment(setup.folder, "runner")
    assert held == setup.place and held.name.startswith("runner-")
    setup.lock("cpu").write_text("numpy==2.0\n")
    setup.run("up")
    assert held.exists() and environment(setup.folder, "runner") == setup.place != held
    assert environment(setup.folder, "elsewhere") == setup.folder / "elsewhere"


def test_an_interrupted_build_is_done_again_and_the_old_one_stays(setup: Setup) -> None:
    setup.fails = True
    with pytest.raises(setup.deploy.steps.BuildFailed):
        setup.run("up")
    assert setup.all() == set() and not (setup.folder / "runner").exists()
    setup.fails = False
    setup.run("up")
    before = setup.place
    (setup.folder / "runner-0123456789ab").mkdir()  # what a build leaves that is killed
    setup.lock("cpu").write_text("numpy==2.0\n")
    setup.fails = True
    with pytest.raises(setup.deploy.steps.BuildFailed):
        setup.run("up")
    assert setup.place == before and before.exists()
    setup.fails = False
    setup.run("up")
    assert setup.all() == {setup.place.name} and setup.place != before


def test_an_interrupted_step_ends_its_command(deploy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go on writing into a folder that is removed."""

    def interrupted() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stderr, "isatty", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy.steps.run(["sh", "-c", f"echo $$ > {tmp_path}/process; echo begun; exec sleep 60"])
    assert not Path(f"/proc/{(tmp_path / 'process').read_text().strip()}").exists()


def test_all_is_built_again_where_that_is_asked_for(setup: Setup, user: Any) -> None:
    """Also while the one of the same description is in use."""
    setup.run("up")
    before = setup.place
    user()
    setup.run("setup --again")
    assert setup.place.name == f"{before.name}-2" and before.exists() and setup.built == ["cpu", "cpu"]
    setup.run("up")
    assert len(setup.built) == 2, "it is up to date"


def test_an_earlier_environment_that_is_still_there_is_used_again(setup: Setup, user: Any) -> None:
    setup.run("up")
    before, text = setup.place, setup.lock("cpu").read_text()
    user()
    setup.lock("cpu").write_text("numpy==2.0\n")
    setup.run("up")
    setup.lock("cpu").write_text(text)
    setup.run("up")
    assert setup.place == before and len(setup.built) == 2


@pytest.mark.parametrize("command", ["up", "setup", "doctor"])
def test_a_driver_that_fails_changes_nothing(setup: Setup, capsys: pytest.CaptureFixture[str], command: str) -> None:
    setup.driver("GPU 0: NVIDIA L4 (UUID: GPU-1)")
    setup.run("up")
    assert setup.built == ["cuda"] and json.loads((setup.place / "built").read_text()) == {"built for": "cuda"}
    before = setup.place
    setup.driver(None)
    capsys.readouterr()
    setup.run(command)
    assert setup.place == before and setup.built == ["cuda"]
    told = capsys.readouterr().err
    assert ("BIOENGINE_ACCELERATOR=cpu ./bioengine setup" in told) is (command != "doctor"), "it asks no driver"


def test_a_new_gpu_is_told_of_and_built_for_on_request(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.run("up")
    setup.driver("GPU 0: NVIDIA L4 (UUID: GPU-1)")
    setup.run("up")
    assert setup.built == ["cpu"] and "BIOENGINE_ACCELERATOR=cuda ./bioengine setup" in capsys.readouterr().err
    monkeypatch.setenv("BIOENGINE_ACCELERATOR", "cuda")
    setup.run("doctor")
    assert setup.built == ["cpu"] and "model runner (cuda), but built for cpu" in capsys.readouterr().err
    setup.run("setup")
    assert setup.built == ["cpu", "cuda"]
    monkeypatch.setenv("BIOENGINE_ACCELERATOR", "cpu")
    setup.run("up")
    assert setup.built == ["cpu", "cuda"], "it computes on the CPU as well"
    setup.run("setup")
    assert setup.built == ["cpu", "cuda", "cpu"]


@pytest.mark.parametrize(("answer", "builds"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_setup_asks_a_person(setup: Setup, monkeypatch: pytest.MonkeyPatch, answer: str, builds: bool) -> None:
    setup.run("up")
    setup.driver("GPU 0: NVIDIA L4 (UUID: GPU-1)")
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs, "r+b", buffering=0) as terminal:
        with open(terminal.fileno(), closefd=False) as read, open(terminal.fileno(), "w", closefd=False) as written:
            monkeypatch.setattr(sys, "stdin", read)
            monkeypatch.setattr(sys, "stderr", written)
            setup.run("up")
            assert setup.built == ["cpu"], "a server that starts asks nothing"
            setup.run("setup")
    assert b"[y/N]" in os.read(ours, 10_000)
    os.close(ours)
    assert setup.built == (["cpu", "cuda"] if builds else ["cpu"])


def test_the_accelerator_may_stand_in_the_homes_file(setup: Setup) -> None:
    home = setup.root / "second"
    home.mkdir(mode=0o700)
    (home / "bioengine.env").write_text("BIOENGINE_ACCELERATOR=CUDA\n")
    (home / "bioengine.env").chmod(0o600)
    setup.run(f"up --home {home}")
    assert setup.built == ["cuda"]


def test_an_unknown_accelerator_is_refused() -> None:
    program = ROOT / "deploy" / "environments.py"
    variables = {**os.environ, "BIOENGINE_ACCELERATOR": "tpu"}
    attempt = subprocess.run([sys.executable, "-I", program, "runner"], capture_output=True, text=True, env=variables)
    assert attempt.returncode == 1 and "auto, cpu or cuda" in attempt.stderr


@pytest.mark.parametrize("changed", [False, True])
def test_an_environment_of_the_first_layout_is_taken_over(setup: Setup, changed: bool) -> None:
    """As it is where it has what the lock file names, and used until there is another where it has not."""
    old = setup.folder / "runner"
    setup.made(old, "cuda")
    (old / "mark").touch()
    (setup.folder / "runner.built").write_text("7" * 64)
    if changed:
        setup.lock("cuda").write_text("numpy==2.0\n")
    setup.run("doctor")
    assert not old.is_symlink() and setup.built == [], "nothing is changed"
    setup.run("up")
    assert old.is_symlink() and not (setup.folder / "runner.built").exists()
    assert (setup.place / "mark").exists() is not changed
    assert setup.built == (["cuda"] if changed else []), "what it was built for is seen in it"
    assert setup.all() == {setup.place.name}


def test_what_was_interrupted_in_the_first_layout_is_built(setup: Setup) -> None:
    setup.made(setup.folder / "runner", "cpu")
    setup.run("doctor")
    assert setup.built == ["cpu"] and setup.all() == {setup.place.name}


def test_an_environment_of_another_checkout_is_not_taken_for_ours(deploy: SimpleNamespace, tmp_path: Path) -> None:
    """As after a checkout was moved: its own packages are not where the environment looks for them."""
    place = tmp_path / "server-0123456789ab"
    packages = place / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    deploy.layout.write_stamp(place, "cpu")
    deploy.layout.use(tmp_path, "server", place)
    ours = deploy.environments.Environment(
        "server", "", (), lambda folder: iter(()), project=(ROOT / "server", ROOT / "contract")
    )
    for path, found in ((ROOT / "server", place), (ROOT / "elsewhere", None)):
        (packages / "bioengine.pth").write_text(f"{path}\n{ROOT / 'contract'}\n")
        assert ours.found(tmp_path) == found


def test_what_is_up_to_date_waits_for_no_build_and_needs_no_rights(
    setup: Setup, user: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder that somebody else has built, or builds in, also where something of an earlier build is left."""
    setup.run("up")
    server = user()
    setup.run("setup --again")
    server.communicate()
    with open(setup.folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        setup.run("up")
        assert len(setup.all()) == 2
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        setup.run("up")
        assert len(setup.all()) == 2
    setup.run("up")
    assert len(setup.all()) == 1 and len(setup.built) == 2 and "Waiting" not in capsys.readouterr().err
