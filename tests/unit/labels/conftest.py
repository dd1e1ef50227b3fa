"""The small networks that find discs, made once. These tests run in the environment `labels`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what `tests.packages.objects` makes."""
    folder = tmp_path_factory.mktemp("objects") / "made"
    subprocess.run([sys.executable, "-m", "tests.packages.objects", str(folder)], check=True)
    return folder
