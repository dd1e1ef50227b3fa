"""Check the libraries whose private names this server uses: it does not start unless they are as they were reviewed.

`bioengine_server.foreign` has one module for each; docs/developers.md says how to move one to another version.
"""

from __future__ import annotations

from bioengine_contract.library import Parts, difference

from bioengine_server.errors import StackError


class LibraryChanged(StackError):
    code = "library_changed"

    def __init__(self, library: str, expected: str, found: str) -> None:
        """`found`: what is installed instead, as the second half of a sentence."""
        super().__init__(
            f"This server needs {library} {expected}, whose internal parts it changes for security, but {found}. "
            "`./bioengine setup --again` rebuilds the environments with the tested versions; then start the server again."
        )


def require(library: str, expected: str, parts: Parts) -> None:
    """Raises LibraryChanged unless a library is as it was reviewed.

    Args:
        library: the name of its distribution.
        expected: the version that was reviewed.
        parts: its parts that are changed or relied on.
    """
    if (differs := difference(library, expected, parts)) is not None:
        raise LibraryChanged(library, expected, str(differs))
