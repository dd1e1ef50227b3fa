"""The server's answers as advice for who typed a command: they are written for programs, whose requests are Python."""

from __future__ import annotations

import re

_SENTENCES = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
# An example of NumPy, which a sentence can do without: "Rescale them first, for example with `image / 2`."
_EXAMPLE = re.compile(r"(?:,? for example with|,? for example|,? with|:) `\(?(?:image|np)\b[^`]*`")
_TOKEN = re.compile(r", and pass it as `token` to connect_to_server.*?(?=\.( |$))")
# What a sentence says nothing without: a request to copy, a call of NumPy, an argument that the command has not.
_PYTHON = re.compile(r"inputs=\[|\bnp\.|\bimage[.\[]|\.astype\(|\btile=|`tile`|`inputs`")
_FLAGS = (
    (re.compile(r"\baxes=([\"'])(\w+)\1"), r"--axes \2"),
    (re.compile(r"`axes`"), "--axes"),
    (re.compile(r"`?\bweight_format\b`?"), "--weights"),
)


def for_command_line(text: str) -> str:
    """An answer without the sentences that show Python, and with the command's flags for the keys of a request."""
    sentences = [_TOKEN.sub("", _EXAMPLE.sub("", sentence)) for sentence in _SENTENCES.split(text)]
    kept = " ".join(sentence for sentence in sentences if not _PYTHON.search(sentence)) or text
    for key, flag in _FLAGS:
        kept = key.sub(flag, kept)
    return kept
