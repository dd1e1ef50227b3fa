"""Build environments beside those that are there, two at a time: each takes a processor, and waits for network and disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

import layout
import steps

if TYPE_CHECKING:
    from environments import Environment

_AT_ONCE = 2


def build_all(environments: Sequence[Environment], folder: Path, again: bool) -> None:
    """Build environments in a folder. Raises BuildFailed for the one that fails; another that is being built then ends too.

    `again`: also where one of the same description is there.
    """
    labels = {each.name: f"[{number}/{len(environments)}] {each.title}" for number, each in enumerate(environments, start=1)}
    later = [each for each in environments if labels.keys() & each.after]

    def build_one(environment: Environment) -> None:
        try:
            steps.go_on()
            build(environment, folder, labels[environment.name], again)
        except BaseException:
            steps.stop()
            raise

    try:
        for group in ([each for each in environments if each not in later], later):
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                builds = [pool.submit(build_one, each) for each in group]
                try:
                    wait(builds)
                except BaseException:  # Ctrl-C
                    steps.stop()
                    raise
            errors = [error for each in builds if (error := each.exception()) is not None]
            if errors:
                raise min(errors, key=lambda error: isinstance(error, steps.Stopped))
    finally:
        steps.resume()


def build(environment: Environment, folder: Path, label: str, again: bool) -> None:
    """Build an environment beside the existing one, and switch to it once it works. `label` begins each line that is reported."""
    started, digest = time.monotonic(), environment.digest()
    ready = [place for place in layout.builds(folder, environment.name) if layout.is_of(place, digest)]
    ready = [place for place in ready if (place / layout.STAMP).is_file()]
    if ready and not again:
        layout.use(folder, environment.name, ready[0])
        if environment.found(folder) is not None:
            return
    place = layout.new_place(folder, environment.name, digest)
    try:
        for step in environment.build(place):
            steps.report(f"{label}: {step} ...")
        layout.write_stamp(place, environment.built_for)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    layout.use(folder, environment.name, place)
    steps.report(f"{label}: done in {time.monotonic() - started:.0f} s")
