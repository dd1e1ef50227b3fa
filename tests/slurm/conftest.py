"""One cluster for all tests; each ends its own jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import NOT_HERE, CannotRun, Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        running = Cluster()
    except (CannotRun, OSError):
        pytest.skip(NOT_HERE)
    with contextlib.closing(running):
        yield running
