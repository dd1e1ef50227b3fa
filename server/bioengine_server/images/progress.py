"""Describe the progress of a request in a few words for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Progress = Callable[[str], None]
"""Told in a few words how far a run is; empty at its beginning."""


def in_words(event: Mapping[str, Any]) -> str:
    """The text for an event of the progress function; empty for events that users need not see."""
    state = event.get("state")
    if state == "queued" and event.get("position"):
        estimate = f", about {event['estimate']:.0f} s" if event.get("estimate") else ""
        return f"number {event['position']} in the queue{estimate}"
    if state == "downloading":
        done, total = event.get("bytes"), event.get("total")
        of_total = f" of {total / 1e6:.0f}" if total else ""
        return "downloading the model" if done is None else f"downloading the model, {done / 1e6:.0f}{of_total} MB"
    if state == "converting":
        return "converting the model's weights"
    if state == "loading":
        return "loading the model"
    if state == "running" and event.get("tiles"):
        return f"tile {event['tile']} of {event['tiles']}"
    return ""
