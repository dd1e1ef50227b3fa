"""Plain names for folders whose own names Triton cannot take: links to them, in a folder with a plain name.

Triton 2.51 starts its Python processes by a shell's command line without quotes, so a space or a quote in a path ends it there;
and their Python takes file names for ASCII before our code can say otherwise (`bioengine_runner.utf8`).

The folder is in `/tmp`, where other users of the machine make folders too: it gets a name that nobody can foresee, and is used
only as long as it is ours.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from bioengine_contract.removal import remove

from bioengine_server.private_folder import is_private

_PLAIN = re.compile(r"[A-Za-z0-9/._+@-]+")


def is_plain(path: Path) -> bool:
    """Whether a shell and a Python that knows ASCII alone take the name of `path` as it is."""
    return _PLAIN.fullmatch(str(path)) is not None


class PlainNames:
    """Links in a folder that models cannot write to; it is made when the first is needed."""

    def __init__(self, prefix: Path) -> None:
        """`prefix`: what the paths of this home's folders begin with."""
        self._prefix = prefix
        self._folder: Path | None = None
        self._links: list[Path] = []

    @property
    def folder(self) -> Path | None:
        """The folder; None: there is none, or what has its name now is not what was made."""
        folder = self._folder  # read once: threads ask while another clears
        return folder if folder is not None and is_private(folder) else None

    def are_whole(self) -> bool:
        """Whether all links that were made lead somewhere."""
        return self._folder is None or (self.folder is not None and all(link.exists() for link in self._links))

    def clear(self) -> None:
        """Remove the links, and what a server of this home that was killed has left. What is of other users is left alone."""
        self._folder, self._links = None, []
        for left in self._prefix.parent.glob(f"{self._prefix.name}*"):
            if is_private(left):
                remove(left)

    def of(self, path: Path, name: str) -> Path:
        """`path` where its name is plain, else a link to it with `name`. Raises OSError."""
        return path if is_plain(path) else self._link(path, name)

    def of_environment(self, environment: Path, name: str) -> Path:
        """The same for a Python environment: as a whole, since the paths that its .pth files name have to be plain as well."""
        packages = next(environment.glob("lib/python*/site-packages"), None)
        if packages is None:
            return environment  # it is not there, as who starts it will find
        named = [Path(line) for file in sorted(packages.glob("*.pth")) for line in _paths(file)]
        if is_plain(environment) and all(map(is_plain, named)):
            return environment
        plain = self._made() / name
        found = plain / packages.relative_to(environment)
        found.mkdir(parents=True)
        (plain / "bin").mkdir()
        (plain / "bin" / "python3").symlink_to(environment / "bin" / "python")
        shutil.copyfile(environment / "pyvenv.cfg", plain / "pyvenv.cfg")
        links = [self._link(path, f"{name}-{number}") for number, path in enumerate([packages, *named])]
        (found / "plain.pth").write_text("".join(f"{link}\n" for link in links))
        return plain

    def _link(self, path: Path, name: str) -> Path:
        link = self._made() / name
        link.symlink_to(path)
        self._links.append(link)
        return link

    def _made(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{self._prefix.name}-", dir=self._prefix.parent))
        return self._folder


def _paths(file: Path) -> list[str]:
    """The folders that a .pth file adds, in absolute terms; the project's own has one."""
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("/")]
