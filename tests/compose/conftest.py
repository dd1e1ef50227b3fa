"""The project's images on an engine of the tests' own, and one running set-up that tests leave as they found it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.engine import NOT_HERE, CannotRun, Engine, check_machine
from tests.compose.images import build_images, gather
from tests.compose.network import own_network
from tests.compose.project import Project


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with the project's images, in a network of its own."""
    folder = tmp_path_factory.mktemp("images")
    with contextlib.ExitStack() as parts:
        try:
            check_machine()
            gather(folder)
            parts.enter_context(own_network())
            engine = parts.enter_context(contextlib.closing(Engine()))
        except (CannotRun, OSError):
            pytest.skip(NOT_HERE)
        build_images(engine, folder)
        yield engine


@pytest.fixture(scope="session")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A running set-up with the proxy."""
    running = Project(engine, "bioengine-tests", tmp_path_factory.mktemp("project"))
    running.up()
    yield running
    running.down()
    assert not running.left()


@pytest.fixture
def own_project(engine: Engine, tmp_path: Path) -> Iterator[Project]:
    """A set-up that is not up yet, and that a test may do anything to."""
    project = Project(engine, "bioengine-own", tmp_path)
    yield project
    project.down()
    assert not project.left()
