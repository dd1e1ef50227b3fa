"""`slurm`: workers as jobs of Slurm, as many as the server's requests need."""

from __future__ import annotations

import re
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional
from urllib.parse import urlsplit

import typer

from bioengine_server.amounts import parse_duration
from bioengine_server.commands.shared import HomeOption, configure_logging, console, fail, load_settings, safe, told

if TYPE_CHECKING:
    from bioengine_server.slurm.queue import Queue
    from bioengine_server.slurm.server import Server

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def slurm(
    server_url: Annotated[str, typer.Argument(envvar="BIOENGINE_SERVER_URL", help="Such as https://bioengine.lab.")],
    minimum: Annotated[int, typer.Option("--min", min=0, help="How many workers there always are.")] = 0,
    maximum: Annotated[int, typer.Option("--max", min=0, help="How many there may be; 0 ends those that are there.")] = 4,
    sbatch: Annotated[str, typer.Option(help='Options of the job, such as "--gres=gpu:1 -A project --time=8:00:00".')] = "",
    token_file: Annotated[
        Optional[Path], typer.Option(envvar="BIOENGINE_WORKER_TOKEN_FILE", help="The workers' token; nodes see the file too.")
    ] = None,
    idle: Annotated[str, typer.Option(metavar="DURATION", help="A worker that was not needed for this long is ended.")] = "5m",
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long before a job's time limit its successor is submitted.")
    ] = "10m",
    name: Annotated[Optional[str], typer.Option(help="Name of the jobs, by which they are found. \\[bioengine-SERVER]")] = None,
    script: Annotated[Optional[Path], typer.Option(help="A job script of your own. Its arguments: the worker's command.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check that everything is set up; status 1 if not.")] = False,
    home: HomeOption = None,
) -> None:
    """Run workers as jobs of Slurm: more while requests wait, none while nobody asks. Jobs go on after Ctrl-C."""
    from bioengine_server.images.address import check_url
    from bioengine_server.slurm.errors import NoTokenFile
    from bioengine_server.slurm.loop import Loop, only_loop
    from bioengine_server.slurm.need import Need
    from bioengine_server.slurm.queue import Queue, read_options
    from bioengine_server.slurm.server import Server

    if minimum > maximum:
        fail(f"--min {minimum} is more than --max {maximum}.")
    name = name or "bioengine-" + re.sub(r"[^A-Za-z0-9._-]", "-", urlsplit(server_url).netloc.rpartition("@")[2] or "server")[:50]
    if not _NAME.fullmatch(name):
        fail(f"{name!r} cannot be the name of jobs. Expected letters, digits, and . _ - between them, at most 64.")
    settings = load_settings(home=home)
    with told():
        check_url(server_url)
        options = read_options(sbatch)
        if token_file is None:
            raise NoTokenFile(None, "")
    token_file = token_file.absolute()
    server = Server(server_url, token_file)
    command = [_executable(), "worker", server.url, "--token-file", str(token_file)]
    queue = Queue(name, options, _script(script), command)
    need = Need(minimum, maximum, _duration("--idle", idle))
    margin = _duration("--overlap", overlap)
    if check:
        raise typer.Exit(_tell_findings(server, queue, token_file))
    configure_logging(settings)
    with told():
        _try(server, queue)
        with only_loop(settings.home, name):
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            console.print(f"Jobs named {name}, from {minimum} to {maximum}, for {server.url}.", markup=False)
            Loop(server, queue, need, margin).run(stop)
    print(f"Stopped. Jobs go on, and the next start finds them. To end them: scancel -b -s TERM -n {name} -u $USER")


def _try(server: Server, queue: Queue) -> None:
    """End the command for what will not be well by itself: no Slurm, options that it refuses, a wrong token or URL."""
    from bioengine_server.slurm.errors import ServerAway, SlurmFailed

    try:
        queue.jobs()
        queue.try_options()
    except SlurmFailed as error:  # its controller is away
        console.print(f"note: {safe(error, 600)}")
    try:
        server.figures()
    except ServerAway as error:
        console.print(f"note: {safe(error, 600)}")


def _tell_findings(server: Server, queue: Queue, token_file: Path) -> int:
    from bioengine_server.slurm.check import check

    marks = {True: "[green]ok[/]  ", None: "[yellow]note[/]", False: "[bold red]no[/]  "}
    found = [*check(server, queue, token_file)]
    for good, text in found:
        console.print(f"{marks[good]}  {safe(text, 1000)}", soft_wrap=True)
    return 1 if any(good is False for good, _ in found) else 0


def _duration(option: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        fail(f"{option}: {error}.")
    if seconds < 0:
        fail(f"{option} {text} is less than nothing; expected such as 5m.")
    return seconds


def _script(given: Path | None) -> Path:
    from bioengine_server.project import PROJECT

    script = (given or PROJECT / "deploy" / "slurm" / "worker.sbatch").absolute()
    if not script.is_file():
        fail(f"There is no job script {script}. Name one with --script FILE; the project's is deploy/slurm/worker.sbatch.")
    return script


def _executable() -> str:
    """`bioengine`, as jobs run it."""
    from bioengine_server.project import IS_INSTALLED, PROJECT

    return str(Path(sys.executable).with_name("bioengine") if IS_INSTALLED else PROJECT / "bioengine")
