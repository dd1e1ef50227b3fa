"""What a running stack makes can be opened by its user alone: images of the latest requests, logs, databases, sockets."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from bioengine_contract.shared_tensors import MIN_BYTES

from tests.security.conftest import Siege, everything_under
from tests.stack.harness import Stack, bioengine

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_to_others(*folders: Path, before: frozenset[Path] = frozenset()) -> list[str]:
    found = []
    for path in everything_under(*folders):
        if path in before or path.is_symlink():
            continue
        mode = path.lstat().st_mode
        if mode & OTHERS:
            found.append(f"{stat.filemode(mode)} {path}")
    return found


def test_nobody_else_opens_what_a_running_stack_makes(siege: Siege) -> None:
    """After images by all ways: in the message, in files in memory, through Triton's own shared memory."""
    shared = siege.stack.shared_memory()
    with siege.stack.client() as client:
        for side, is_shared in ((16, False), (400, True)):
            image = np.random.default_rng(1).random((1, 1, side, side), np.float32)
            assert (image.nbytes >= MIN_BYTES) is is_shared
            assert client.run("old-otter", [image])["success"]
        config = client.triton.get_config(model_name="old-otter")
        client.triton.execute(inputs=[image], model_name=config["name"])
    folders = [siege.home, siege.stack.settings.node_folder, *siege.stack.shared_memory()]
    made = [path for path in everything_under(*folders) if path not in siege.before]
    names = {path.name for path in made}
    assert {
        "hypha.sqlite",
        "triton.log",
        "server.log",
        "control",
        "owner",
        "tokens.json",
        "hypha-jwt",
        "http",
        "metrics",
    } <= names
    assert len(siege.stack.shared_memory()) >= len(shared) > 4
    assert open_to_others(*folders, before=siege.before) == []


@pytest.mark.extended
def test_a_new_home_is_its_users_alone(packages: Path, tmp_path: Path) -> None:
    for number, command in enumerate((("models", "import", str(packages / "old-otter")), ("token", "create", "somebody"))):
        home = tmp_path / str(number)
        assert bioengine(*command, "--home", str(home)).returncode == 0
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert open_to_others(home) == []


@pytest.mark.extended
def test_a_users_own_folder_stays_as_it_is(tmp_path: Path) -> None:
    """A home that was there keeps its mode; what is made in it is closed all the same."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    with Stack(home) as stack:
        assert stat.S_IMODE(home.stat().st_mode) == 0o755
        made = [path for path in everything_under(home) if path != home]
        assert made and open_to_others(*made) == []
        assert stack.is_ready()
