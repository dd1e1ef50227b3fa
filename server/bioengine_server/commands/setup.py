"""`setup`: bring the environments up to date. The executable has already done so; this command only reports it."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from bioengine_server.commands.shared import HomeOption, console, fail, load_settings
from bioengine_server.environments import built_for, can_build


def setup(
    again: Annotated[bool, typer.Option("--again", help="Rebuild all environments, even those that are up to date.")] = False,
    home: HomeOption = None,
) -> None:
    """Build the environments that are missing or out of date, and show which device they are for.

    An old environment is used until the new one works, and kept as long as a running server uses it. BIOENGINE_ACCELERATOR=cpu or
    cuda builds the model runner's environment for the CPU or the GPU, whatever it was built for before.
    """
    settings = load_settings(home=home)
    if not can_build():
        fail("The environments of a container are in its image: `docker compose build` rebuilds it.")
    is_for = {"cpu": "the CPU", "cuda": "NVIDIA GPUs (cuda)"}.get(built_for(settings.environments, "runner"), "an unknown device")
    console.print(f"All is set up in {settings.environments}, with Python {platform.python_version()}:", markup=False)
    console.print(f"  the server, Triton Inference Server, and the model runner, built for {is_for}.", markup=False)
    console.print("Start it with: ./bioengine up", markup=False)
