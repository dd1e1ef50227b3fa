"""File names with any letters, and text files in UTF-8, for the Python processes of Triton.

Triton 2.51's Python backend starts Python in its isolated configuration, which reads neither PYTHONUTF8 nor LC_ALL: names of
files are ASCII there, and `open("gewichte_ü.onnx")` raises UnicodeEncodeError. Names that the system gives, such as those of a
folder's entries, still carry their other bytes as lone surrogates ("surrogateescape") and can be opened.
"""

from __future__ import annotations

import codecs
import contextlib
import locale
import sys

_NAME = "surrogateescape"
_builtin = codecs.lookup_error(_NAME)


def use_utf8() -> None:
    """Have file names encoded as UTF-8 from now on, and text files read and written so, where that is not so already."""
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")  # what `open` asks for the encoding of a file's content
    if sys.getfilesystemencoding() == "ascii":
        # CPython asks the handler of this name for what ASCII has no byte for, but for lone surrogates, which it knows itself.
        codecs.register_error(_NAME, _encode)


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.encoding == "ascii":
        return error.object[error.start : error.end].encode("utf-8", _NAME), error.end
    return _builtin(error)
