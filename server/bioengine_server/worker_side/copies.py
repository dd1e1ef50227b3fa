"""Copies of the server's models in a worker's own store.

A copy is made when the worker is to load a model that it has not, or has from another import: file by file, each checked by the
SHA-256 in `model.json`. What was interrupted goes on where it ended, also after a start; the folder of a package is put in its
place when it is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote

from bioengine_contract.ids import PackageKey
from bioengine_contract.manifest import FILE_NAME, Manifest
from bioengine_contract.model_errors import ModelNotLoaded
from bioengine_contract.package import Package
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.store import package_of, read_aliases
from bioengine_contract.triton_model import TritonModel
from pydantic import ValidationError

from bioengine_server.store import layout
from bioengine_server.worker_side.server import Server, ServerAway, reading
from bioengine_server.workers.protocol import Wanted

_COPIES = ".copies"
_CHUNK = 1 << 20  # bytes
_TRIES = 5
_DELAY = 0.5  # seconds before a second try, and twice as long before each further one


class ModelCopies:
    """Of one worker."""

    def __init__(self, store: Path, is_own: bool, server: Server) -> None:
        """
        Args:
            store: the worker's model store.
            is_own: whether the worker writes it; otherwise it is the server's, shared read-only.
            server: has what lacks here.
        """
        self._store = store
        self._is_own = is_own
        self._server = server
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def find(self, wanted: Wanted) -> TritonModel | None:
        """A model as it is in the store; None where the store lacks it, or has another import of its package."""
        package = self._package(wanted)
        if package is None:
            return None
        return TritonModel(wanted.name, package, tuple(wanted.weight_formats), wanted.card)

    async def get(self, wanted: Wanted) -> TritonModel:
        """A model, copied from the server where the store lacks it. Raises ModelNotLoaded."""
        async with self._making[wanted.package]:
            if (model := await asyncio.to_thread(self.find, wanted)) is not None:
                return model
            id = wanted.package.partition("/")[0]
            if not self._is_own:
                raise ModelNotLoaded(
                    id,
                    f"the worker's store (BIOENGINE_STORE) does not contain the server's import of {wanted.package}, and it must "
                    "be the server's own store",
                )
            try:
                await self._copy(wanted)
            except ServerAway as error:
                raise ModelNotLoaded(id, f"the worker could not copy it from the server ({error})") from error
            except OSError as error:
                raise ModelNotLoaded(id, f"the worker's store cannot be written ({error.strerror or error})") from error
            model = await asyncio.to_thread(self.find, wanted)
            if model is None:
                raise ModelNotLoaded(id, "it was imported again while the worker copied it")
            return model

    def _package(self, wanted: Wanted) -> Package | None:
        key = PackageKey.parse(wanted.package)
        if key is None:
            return None
        with contextlib.suppress(PackageUnreadable, OSError, ValueError):
            package = package_of(self._store, key)
            if (package.fingerprint, package.is_default) == (wanted.fingerprint, wanted.is_default):
                return package
        return None

    async def _copy(self, wanted: Wanted) -> None:
        """Raises ServerAway, OSError."""
        base = f"/workers/models/{wanted.package}"
        described = await self._whole(f"{base}/{FILE_NAME}")
        if hashlib.sha256(described).hexdigest()[: len(wanted.fingerprint)] != wanted.fingerprint:
            return  # imported again meanwhile
        try:
            manifest = Manifest.model_validate_json(described)
        except ValidationError as error:
            raise ServerAway(f"its {FILE_NAME} cannot be read") from error
        folder = self._store / _COPIES / wanted.fingerprint
        for name, sha256 in manifest.stored_files.items():
            file = folder / _checked(name)
            await asyncio.to_thread(file.parent.mkdir, parents=True, exist_ok=True)
            if not await asyncio.to_thread(self._is_there, file, wanted.package, name, sha256):
                await self._fetch(f"{base}/{quote(name)}", file, sha256)
        await asyncio.to_thread((folder / FILE_NAME).write_bytes, described)
        await asyncio.to_thread(self._put, folder, wanted)

    def _is_there(self, file: Path, key: str, name: str, sha256: str) -> bool:
        """Whether a file is complete, perhaps because an earlier import of the same package has it as well."""
        before = self._store / key / name
        if not file.exists() and before.is_file() and not before.is_symlink() and _sha256(before) == sha256:
            with contextlib.suppress(OSError):
                os.link(before, file)
                return True
        return file.exists() and _sha256(file) == sha256

    async def _fetch(self, path: str, file: Path, sha256: str) -> None:
        """Raises ServerAway, OSError."""
        part = file.with_name(f"{file.name}.part")
        for attempt in range(_TRIES):
            try:
                with await asyncio.to_thread(open, part, "ab") as stream:
                    await self._append(path, stream)
            except ServerAway:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(_DELAY * 2**attempt)
                continue
            if await asyncio.to_thread(_sha256, part) == sha256:
                await asyncio.to_thread(part.replace, file)
                return
            await asyncio.to_thread(part.unlink)
        raise ServerAway(f"{file.name} arrives with another SHA-256 than the package's")

    async def _append(self, path: str, stream: IO[bytes]) -> None:
        """What lacks at the end of a file. Raises ServerAway, OSError."""
        done = stream.seek(0, os.SEEK_END)
        headers = {"Range": f"bytes={done}-"} if done else {}
        async with self._server.get(path, headers) as response:
            if response.status == 416:  # nothing lacks
                return
            if done and response.status != 206:
                stream.truncate(0)
            with reading():
                async for chunk in response.content.iter_chunked(_CHUNK):
                    await asyncio.to_thread(stream.write, chunk)

    async def _whole(self, path: str) -> bytes:
        """Raises ServerAway."""
        async with self._server.get(path, {}) as response:
            with reading():
                return await response.read()

    def _put(self, folder: Path, wanted: Wanted) -> None:
        """Have a complete copy be the package. Raises OSError."""
        place = self._store / wanted.package
        id = wanted.package.partition("/")[0]
        with layout.lock(self._store):
            layout.sweep(self._store)
            layout.put(self._store, folder, place)
            aliases = {**read_aliases(self._store), wanted.package: wanted.package}
            if wanted.is_default:
                aliases[id] = wanted.package
            elif aliases.get(id) == wanted.package:
                del aliases[id]
            layout.write_aliases(self._store, aliases)


def _checked(name: str) -> PurePosixPath:
    """The path of a file within its package. Raises ServerAway."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ServerAway(f"the package has a file {name[:80]!r}")
    return path


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
