"""How the running server computes a model, as `models show` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bioengine_contract.errors import BioEngineError

from bioengine_server.commands.shared import console
from bioengine_server.control.client import ControlClient
from bioengine_server.control.errors import NoServer, NotYourServer
from bioengine_server.settings import Settings
from bioengine_server.untrusted import shown

_MAX_LINES = 30


def tell_running(settings: Settings, id: str) -> None:
    """Print what the running server has chosen for a model; nothing if none runs with this home, or another user runs it.

    Args:
        settings: name the home.
        id: of the model, with its version.
    """
    try:
        found = ControlClient(settings).model(id)
    except (NoServer, NotYourServer):
        return
    except BioEngineError as error:
        console.print(f"  in the running server: {shown(error, 300)}", markup=False)
        return
    console.print(f"  in the running server: {'' if found else 'not loaded'}".rstrip())
    for model in found:
        for line in list(_lines(model))[:_MAX_LINES]:
            console.print(f"    {line}", markup=False)


def _lines(model: dict[str, Any]) -> Iterator[str]:
    """What is known of one process, which may hold anything: packages run code in it."""
    name = shown(model["name"], 100)
    if model["state"] == "failed":
        yield f"{name}: could not be loaded: {shown(model['reason'], 1000)}"
        return
    yield f"{name}: {shown(model['weight_format'])} on {shown(model['device'])}"
    yield from (f"  {shown(line, 500)}" for line in model["details"].splitlines())
