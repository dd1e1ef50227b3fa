"""Check the libraries whose private names the runner uses: no model is opened unless they are as they were reviewed.

`bioengine_runner.foreign` has one module for each; docs/developers.md says how to move one to another version.
"""

from __future__ import annotations

from bioengine_contract.errors import RequestError
from bioengine_contract.library import Parts, difference


class LibraryChanged(RequestError):
    code = "library_changed"

    def __init__(self, library: str, expected: str, found: str) -> None:
        """`found`: what is installed instead, as the second half of a sentence."""
        super().__init__(
            f"The model runner needs {library} {expected}, whose private names it uses, but {found}. "
            "Ask the server's admin to rebuild the environments with the tested versions by `./bioengine setup --again`, and "
            "to restart the server."
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
