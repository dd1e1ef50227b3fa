"""Rewrite the server's error messages, which are written for Python programs, for users of the command line."""

from __future__ import annotations

import re

_SENTENCES = re.compile(r"(?<=[.!?]) +(?=[A-Z])")
# A NumPy example that can be removed from a sentence: "Rescale them first, for example with `image / 2`."
_EXAMPLE = re.compile(r"(?:,? for example with|,? for example|,? with|:) `\(?(?:image|np)\b[^`]*`")
_TOKEN = re.compile(r", and pass it as `token` to connect_to_server.*?(?=\.( |$))")
# Sentences with these are removed: a Python request, a call of NumPy, an argument that the command does not have.
_PYTHON = re.compile(r"inputs=\[|\bnp\.|\bimage[.\[]|\.astype\(|\btile=|`tile`|`inputs`|`outputs`")
_FLAGS = (
    (re.compile(r"\baxes=([\"'])(\w+)\1"), r"--axes \2"),
    (re.compile(r"`axes`"), "--axes"),
    (re.compile(r"`?\bweight_format\b`?"), "--weights"),
)


def for_command_line(text: str) -> str:
    """The message without Python sentences, and with the command's flags instead of the keys of a request."""
    sentences = [_TOKEN.sub("", _EXAMPLE.sub("", sentence)) for sentence in _SENTENCES.split(text)]
    kept = " ".join(sentence for sentence in sentences if not _PYTHON.search(sentence)) or text
    for key, flag in _FLAGS:
        kept = key.sub(flag, kept)
    return kept
