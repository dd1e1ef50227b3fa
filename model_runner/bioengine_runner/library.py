"""Other libraries whose private names the runner uses: what they were when they were looked at, or no model is opened.

`bioengine_runner.foreign` has one module for each; docs/developers.md says how to move one to another version.
"""

from __future__ import annotations

from bioengine_contract.errors import RequestError
from bioengine_contract.library import Parts, difference


class LibraryChanged(RequestError):
    code = "library_changed"

    def __init__(self, library: str, expected: str, found: str) -> None:
        """`found`: what is installed instead, as the end of a sentence."""
        super().__init__(
            f"The model runner needs {library} {expected}, whose private names it uses; {found}. "
            "Ask the server's admin to build the environments anew, as they were tested, with `./bioengine setup --again`, and "
            "to start the server again."
        )


def require(library: str, expected: str, parts: Parts) -> None:
    """Raises LibraryChanged unless a library is what it was.

    Args:
        library: its name as a distribution.
        expected: its version.
        parts: of it.
    """
    if (differs := difference(library, expected, parts)) is not None:
        raise LibraryChanged(library, expected, str(differs))
