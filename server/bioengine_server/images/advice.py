"""The server's answers as advice for who typed a command: they are written for programs, whose requests are Python."""

from __future__ import annotations

import re

_SENTENCES = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
# A request to copy, a call of NumPy, or an argument as Python writes it.
_PYTHON = re.compile(r"inputs=\[|\bnp\.|\w\.astype\(|\btile=|`tile`|`inputs`")
_FLAGS = {"`axes`": "--axes", "`weight_format`": "--weights", "weight_format": "--weights"}


def for_command_line(text: str) -> str:
    """An answer without the sentences that show Python, and with the command's flags for the keys of a request."""
    sentences = [sentence for sentence in _SENTENCES.split(text) if not _PYTHON.search(sentence)]
    kept = " ".join(sentences) or text
    for key, flag in _FLAGS.items():
        kept = kept.replace(key, flag)
    return kept
