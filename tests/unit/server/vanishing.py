"""Folders that another process removes while somebody looks through them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest


def goes_when_looked_into(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have `folder` removed at the moment when its content is to be listed."""
    list_folder = os.scandir

    def scandir(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(os.fspath(path)) == folder:
            shutil.rmtree(folder)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
