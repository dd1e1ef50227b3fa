"""`status`, `ps`, `unload`, `cancel`, `logs`: what the admin of a running server sees and does."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from bioengine_server.commands.shared import HomeOption, console, fail, load_home_settings, safe, told
from bioengine_server.control.client import ControlClient
from bioengine_server.control.logs import LogReader, with_headings
from bioengine_server.home_in_use import run_dir_of
from bioengine_server.log_file import SERVER_LOG, TRITON_LOG

JsonOption = Annotated[bool, typer.Option("--json", help="For programs: all of it, as JSON.")]

_LOOK_INTERVAL = 0.25  # seconds between two looks at a log that is followed


def status(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Say how the running server is: models, memory, GPUs, queue, callers, last errors."""
    with told():
        found = ControlClient(load_home_settings(home=home)).status()
    if as_json:
        _print_json(found)
        return
    _tell_server(found)
    if worker := found["worker"]:
        _tell_worker(worker)
    _tell_models(found["models"])
    requests = found["requests"]
    console.print(
        f"\nrequests: {requests['running']} of at most {requests['concurrency']} running, {requests['waiting']} of at most "
        f"{requests['queue_size']} waiting"
    )
    _tell_callers(found["callers"])
    _tell_errors(found["errors"])


def ps(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the requests that are under way."""
    with told():
        requests = ControlClient(load_home_settings(home=home)).requests()
    if as_json:
        _print_json(requests)
        return
    if not requests:
        console.print("Nothing is under way.")
        return
    table = Table(Column("task", no_wrap=True), "token", "model", "shapes", "state", "age", box=None, pad_edge=False)
    for request in requests:
        shapes = ", ".join("×".join(map(str, shape)) for shape in request["shapes"])
        state = f"{request['state']}{_details(request['details'])}"
        table.add_row(
            request["task_id"], _who(request["token"]), safe(request["model"]), shapes, safe(state), _duration(request["age"])
        )
    console.print(table)


def unload(
    id: Annotated[str, typer.Argument(help="A model's id, or its name as `status` lists it.")], home: HomeOption = None
) -> None:
    """Unload a model that nobody uses; its memory is free then. The next request for it loads it again."""
    with told():
        names = ControlClient(load_home_settings(home=home)).unload(id)
    console.print(f"Unloaded {', '.join(names)}.", markup=False)


def cancel(task_id: Annotated[str, typer.Argument(help="Of the request, as `ps` lists it.")], home: HomeOption = None) -> None:
    """Cancel a request, whoever's it is; its caller is told that the server's admin did."""
    with told():
        ControlClient(load_home_settings(home=home)).cancel(task_id)
    console.print(f"Cancelled {task_id}.", markup=False)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="How many lines of each log.")] = 20,
    home: HomeOption = None,
) -> None:
    """Show the last lines of the server's log and of Triton's, also of a server that has ended."""
    settings = load_home_settings(home=home)
    folder = run_dir_of(settings)
    readers = [LogReader(folder / name) for name in (SERVER_LOG, TRITON_LOG) if follow or (folder / name).is_file()]
    if not readers:
        fail(f"There are no logs in {folder}: no server has run there with the home {settings.home}.")
    with contextlib.suppress(KeyboardInterrupt):
        for line in with_headings(readers, _lines(readers, lines, follow)):
            print(line, flush=True)


def _lines(readers: list[LogReader], number: int, follow: bool) -> Iterator[tuple[LogReader, str]]:
    for reader in readers:
        yield from ((reader, line) for line in reader.last(number))
    while follow:
        for reader in readers:
            yield from ((reader, line) for line in reader.new())
        time.sleep(_LOOK_INTERVAL)


def _tell_server(found: dict[str, Any]) -> None:
    state = "[green]ready[/]" if found["ready"] else f"[bold red]not ready[/]: {safe(found['reason'])}"
    console.print(f"BioEngine {found['version']} on {safe(found['url'])}: {state}")
    console.print(f"home {found['home']}, process {found['process']}, up for {_duration(found['uptime'])}", markup=False)


def _tell_worker(worker: dict[str, Any]) -> None:
    memory, cards = worker["memory"], worker["cards"]
    restarts = f", started again {worker['restarts']} times" if worker["restarts"] else ""
    console.print(f"\nTriton: {worker['triton']}{restarts}", markup=False)
    machine = f" (the machine has {_gigabytes(memory['machine'])})" if memory["machine"] else ""
    console.print(f"memory of models: {_gigabytes(memory['held'])} of at most {_gigabytes(memory['limit'])}{machine}")
    if cards:
        held = worker["gpu_memory"]
        console.print(f"memory of models on GPUs: {_gigabytes(held['held'])} of at most {_gigabytes(held['limit'])}")
    for card in cards:
        used = card["memory"] - card["free"]
        console.print(f"  GPU {card['index']}, {safe(card['name'])}: {_gigabytes(used)} of {_gigabytes(card['memory'])} in use")


def _tell_models(models: list[dict[str, Any]]) -> None:
    if not models:
        console.print("\nNo model is loaded.")
        return
    columns = ["weights", "device", "memory", "on GPU", "last use"]
    if any(model["worker"] for model in models):
        columns.append("worker")
    table = Table(Column("model", no_wrap=True), *columns, box=None, pad_edge=False)
    for model in models:
        on_card = _gigabytes(model["gpu_memory"]) if model["gpu_memory"] else ""
        use = f"now, {model['running']} at work" if model["running"] else f"{_duration(model['idle'])} ago"
        cells = [
            safe(model["weight_format"]),
            safe(model["device"]),
            _gigabytes(model["memory"]),
            on_card,
            use,
            safe(model["worker"]),
        ]
        table.add_row(safe(model["name"]), *cells[: len(columns)])
    console.print()
    console.print(table)


def _tell_callers(callers: list[dict[str, Any]]) -> None:
    if not callers:
        return
    table = Table("token", "under way", "ended", "failed", "last", box=None, pad_edge=False)
    for caller in callers:
        counts = [str(caller[name]) for name in ("under_way", "requests", "failed")]
        table.add_row(_who(caller["token"]), *counts, _ago(caller["last"]))
    console.print()
    console.print(table)


def _tell_errors(errors: list[dict[str, Any]]) -> None:
    if errors:
        console.print("\nlast errors:")
    for error in errors[:5]:
        model = f", {safe(error['model'])}" if error["model"] else ""
        who = f"{_ago(error['time'])}, token {_who(error['token'])}{model}"
        reason = f"\n    {safe(error['error'], 300)}" if error["error"] else ""
        task = f", task {error['task_id']}" if error["task_id"] else ""
        console.print(f"  {who}: {safe(error['code'])}{task}{reason}")


def _details(details: dict[str, Any]) -> str:
    """Of a state, in words."""
    words = []
    if details.get("why"):
        words.append(details["why"])
    if details.get("position"):
        words.append(f"position {details['position']}")
    if "estimate" in details:
        words.append(f"about {details['estimate']:.0f} s")
    if "tiles" in details:
        words.append(f"tile {details['tile']} of {details['tiles']}")
    if "bytes" in details:
        total = f" of {details['total'] / 1e6:.0f}" if details.get("total") else ""
        words.append(f"{details['bytes'] / 1e6:.0f}{total} MB")
    return f" ({', '.join(words)})" if words else ""


def _who(token: str) -> str:
    return safe(token) or "without"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _ago(when: float | None) -> str:
    return "" if when is None else f"{_duration(max(0.0, time.time() - when))} ago"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
