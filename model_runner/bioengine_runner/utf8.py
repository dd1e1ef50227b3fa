"""Use UTF-8 for file names and text files in Triton's Python processes.

Triton 2.51's Python backend starts Python in its isolated configuration, which reads neither PYTHONUTF8 nor LC_ALL: file names
are encoded as ASCII there, and `open("gewichte_ü.onnx")` raises UnicodeEncodeError. File names that come from the system, such as
those of a folder's entries, contain the other bytes as lone surrogates ("surrogateescape") and can be opened.
"""

from __future__ import annotations

import codecs
import contextlib
import locale
import sys

_NAME = "surrogateescape"
_builtin = codecs.lookup_error(_NAME)


def use_utf8() -> None:
    """Encode file names as UTF-8 from now on, and read and write text files in UTF-8, if Python does not do so already."""
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")  # `open` gets the default encoding of a file's content from here
    if sys.getfilesystemencoding() == "ascii":
        # CPython calls the handler of this name for letters that ASCII lacks, except for lone surrogates, which it handles
        # itself.
        codecs.register_error(_NAME, _encode)


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.encoding == "ascii":
        return error.object[error.start : error.end].encode("utf-8", _NAME), error.end
    return _builtin(error)
