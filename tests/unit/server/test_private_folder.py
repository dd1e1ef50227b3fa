"""What only this user can open, also where Kubernetes has mounted it: for root, and for the pod's own group."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest
from bioengine_server import private_folder
from bioengine_server.control.client import ControlClient
from bioengine_server.control.errors import NoServer, NotYourServer
from bioengine_server.errors import StackError, UnsafeFolder
from bioengine_server.hypha.secrets import kept_secret, new_secret
from bioengine_server.private_folder import is_ours, is_own_group, is_private, make_private, others_may
from bioengine_server.settings import Settings

USER = 10001


class Machine:
    """The users and groups of a machine, on which this process is the user 10001. Nothing here needs the rights to be one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users: dict[str, tuple[int, int]] = {}
        self.groups: dict[int, list[str]] = {}
        self._patch = monkeypatch
        monkeypatch.setattr(os, "getuid", lambda: USER)
        monkeypatch.setattr(pwd, "getpwall", lambda: [self._user(name) for name in self.users])
        monkeypatch.setattr(pwd, "getpwnam", self._user)
        monkeypatch.setattr(grp, "getgrgid", self._group)

    def show(self, path: Path, owner: int, group: int, mode: int, is_mounted: bool = False) -> None:
        """Have a path look as if it belonged to this owner and group."""
        path.chmod(mode)
        found = [int(part) for part in path.lstat()]
        found[stat.ST_UID], found[stat.ST_GID], found[stat.ST_MODE] = owner, group, stat.S_IFMT(found[stat.ST_MODE]) | mode
        shown, real, real_lstat = os.stat_result(found), Path.stat, Path.lstat
        self._patch.setattr(Path, "stat", lambda self, **options: shown if self == path else real(self, **options))
        self._patch.setattr(Path, "lstat", lambda self: shown if self == path else real_lstat(self))
        self._patch.setattr(os.path, "ismount", lambda asked: is_mounted and asked == path)

    def _user(self, name: str) -> pwd.struct_passwd:
        uid, gid = self.users[name]
        return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))

    def _group(self, number: int) -> grp.struct_group:
        return grp.struct_group(("group", "x", number, self.groups[number]))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Made after the temporary folder, whose owner pytest compares with this process."""
    return Machine(monkeypatch)


def test_a_group_is_own_if_it_has_the_user_s_number_and_nobody_else(machine: Machine) -> None:
    assert is_own_group(USER), "in a container, which knows neither user nor group"
    assert not is_own_group(0) and not is_own_group(100)
    machine.users = {"ada": (USER, USER), "bob": (1002, 1002)}
    machine.groups[USER] = ["ada"]
    assert is_own_group(USER)
    machine.groups[USER] = ["ada", "bob"]
    assert not is_own_group(USER), "bob was added to it"
    machine.groups[USER] = []
    machine.users["bob"] = (1002, USER)
    assert not is_own_group(USER), "it is bob's first group"


def test_the_bits_of_others_count_and_those_of_the_own_group_do_not(machine: Machine, tmp_path: Path) -> None:
    for mode, group, expected in ((0o440, USER, 0), (0o660, USER, 0), (0o640, 100, 0o040), (0o444, USER, 0o004), (0o400, 100, 0)):
        machine.show(tmp_path, 0, group, mode)
        assert others_may(tmp_path.stat()) == expected, (oct(mode), group)


@pytest.mark.parametrize(("owner", "mode"), [(0, 0o440), (USER, 0o660), (USER, 0o600)])
def test_a_secret_of_kubernetes_is_taken(machine: Machine, tmp_path: Path, owner: int, mode: int) -> None:
    file = tmp_path / "token"
    file.write_text(secret := new_secret())
    machine.show(file, owner, USER, mode)
    assert kept_secret(file) == secret


@pytest.mark.parametrize(
    ("owner", "group", "mode", "remedy"),
    [
        (USER, USER, 0o644, "chmod 600"),
        (USER, 100, 0o640, "chmod 600"),
        (0, USER, 0o644, "defaultMode 0440.*fsGroup.*runAsUser"),
        (0, 0, 0o440, "defaultMode 0440.*fsGroup.*runAsUser"),
    ],
)
def test_a_secret_that_others_can_read_is_refused(
    machine: Machine, tmp_path: Path, owner: int, group: int, mode: int, remedy: str
) -> None:
    file = tmp_path / "token"
    file.write_text(new_secret())
    machine.show(file, owner, group, mode)
    with pytest.raises(StackError, match=rf"can be read by others\. .*{remedy}"):
        kept_secret(file)


@pytest.mark.parametrize("mode", [0o2777, 0o2770])
def test_a_run_dir_that_is_mounted_for_the_own_group_is_taken(machine: Machine, tmp_path: Path, mode: int) -> None:
    machine.show(tmp_path, 0, USER, mode, is_mounted=True)
    assert is_ours(tmp_path)
    make_private(tmp_path)
    with pytest.raises(NoServer):  # and not NotYourServer
        ControlClient(Settings(home=tmp_path / "home", run_dir=tmp_path)).status()


@pytest.mark.parametrize(
    ("owner", "group", "mode", "is_mounted"),
    [(0, USER, 0o2777, False), (0, 0, 0o777, True), (0, 100, 0o2777, True), (1002, USER, 0o2770, True), (0, USER, 0o700, True)],
    ids=["not mounted", "of root's group", "of another group", "another user's", "closed to the group"],
)
def test_a_run_dir_of_somebody_else_is_refused(
    machine: Machine, tmp_path: Path, owner: int, group: int, mode: int, is_mounted: bool
) -> None:
    machine.show(tmp_path, owner, group, mode, is_mounted)
    with pytest.raises(UnsafeFolder, match="belongs to another user"):
        make_private(tmp_path)
    with pytest.raises(NotYourServer):
        ControlClient(Settings(home=tmp_path / "home", run_dir=tmp_path)).status()


@pytest.mark.parametrize(("mode", "expected"), [(0o700, True), (0o2700, True), (0o750, False), (0o2770, False), (0o1777, False)])
def test_a_private_folder_may_have_the_group_of_the_volume_it_is_in(tmp_path: Path, mode: int, expected: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert is_private(folder) is expected


def test_without_a_trick_a_folder_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o2775)
    make_private(folder)
    assert is_private(folder) and private_folder.is_ours(folder)
