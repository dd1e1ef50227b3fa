"""Other libraries whose private names this server uses: what they were when they were looked at, or no start.

`bioengine_server.foreign` has one module for each; docs/developers.md says how to move one to another version.
"""

from __future__ import annotations

from bioengine_contract.library import Parts, difference

from bioengine_server.errors import StackError


class LibraryChanged(StackError):
    code = "library_changed"

    def __init__(self, library: str, expected: str, found: str) -> None:
        """`found`: what is installed instead, as the end of a sentence."""
        super().__init__(
            f"This server needs {library} {expected}, whose inner parts it secures; {found}. "
            "`./bioengine setup --again` builds the environments anew, as they were tested; then start again."
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
