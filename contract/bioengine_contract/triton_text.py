"""What Triton's errors say, without the insides of the server."""

from __future__ import annotations

import json
import re

_UNHEALTHY = re.compile("Stub process .* is not healthy")


def text_of(body: str) -> str:
    """Triton's own words in the body of an error, as they are."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body


def plain_error(text: str) -> str:
    """What clients may read of an error of a model that is none of bioimage.io's."""
    if _UNHEALTHY.search(text):
        return (
            "The process of the model has ended, perhaps for want of memory. Send the request again; if it fails again, ask the "
            "server's admin to look at its log."
        )
    text = text.partition("\n\nAt:")[0].partition("Traceback (most recent call last)")[0]
    return text.removeprefix("[request id: <id_unknown>] ").strip()


def process_died(text: str) -> bool:
    """Whether it says that a process of the model has ended, which Triton does not start again."""
    return _UNHEALTHY.search(text) is not None


def is_unloading(text: str) -> bool:
    """Whether it says that the model is being unloaded, or loaded."""
    return "is not ready" in text


def may_be_gone(text: str) -> bool:
    """Whether it says that Triton has no such model, or none that is loaded; or not in the version that was asked for."""
    return is_unloading(text) or "unknown model" in text or "is not found" in text
