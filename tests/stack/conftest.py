"""A real stack for the tests: `./bioengine up` with a home of its own, filled with the small packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.harness import Client, Stack, build_packages, fill_home


@pytest.fixture(scope="session")
def filled_home(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with every small package, and those of the zoo where they are present."""
    home = tmp_path_factory.mktemp("home")
    fill_home(home, packages)
    return home


@pytest.fixture(scope="session")
def stack(filled_home: Path) -> Iterator[Stack]:
    """A running stack that tests leave as it is."""
    with Stack(filled_home) as running:
        yield running


@pytest.fixture(scope="session")
def token_stack(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack that needs a token of everybody; those that tests make have names of their own."""
    home = tmp_path_factory.mktemp("token_stack") / "home"
    fill_home(home, packages)
    with Stack(home, "--access", "token") as running:
        yield running


@pytest.fixture
def own_home(packages: Path, tmp_path: Path) -> Path:
    """A home that a test may do anything to."""
    home = tmp_path / "hö me"  # of a name that is as good as another
    fill_home(home, packages)
    return home


@pytest.fixture(scope="session")
def kinds_home(packages: Path, all_kinds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model of every kind."""
    home = tmp_path_factory.mktemp("kinds") / "home"
    fill_home(home, packages, all_kinds)
    return home


@pytest.fixture(scope="session")
def kinds_stack(kinds_home: Path) -> Iterator[Stack]:
    """A running stack with a model of every kind."""
    with Stack(kinds_home) as running:
        yield running


@pytest.fixture(scope="session")
def kinds_client(kinds_stack: Stack) -> Iterator[Client]:
    with kinds_stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def request_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with packages for what a client may send and be told; no stack has them until a test imports them."""
    folder = tmp_path_factory.mktemp("requests") / "packages"
    build_packages(folder, "--requests")
    return folder
