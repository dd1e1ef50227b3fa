"""The progress of a request in words."""

from __future__ import annotations

from typing import Any

import pytest
from bioengine_server.images.progress import in_words


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"state": "queued", "position": 3}, "number 3 in the queue"),
        ({"state": "queued", "position": 3, "estimate": 12.4}, "number 3 in the queue, about 12 s"),
        ({"state": "queued", "position": 0}, ""),
        ({"state": "downloading"}, "downloading the model"),
        ({"state": "downloading", "file": "a", "bytes": 12e6, "total": 50e6}, "downloading the model, 12 of 50 MB"),
        ({"state": "downloading", "file": "a", "bytes": 12e6}, "downloading the model, 12 MB"),
        ({"state": "loading"}, "loading the model"),
        ({"state": "running"}, ""),
        ({"state": "running", "tile": 3, "tiles": 12}, "tile 3 of 12"),
        ({"state": "something new"}, ""),
        ({}, ""),
    ],
)
def test_what_a_person_reads(event: dict[str, Any], words: str) -> None:
    assert in_words(event) == words
