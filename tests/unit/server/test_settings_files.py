"""Settings in files: which wins, which are refused, and names that there are not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from bioengine_server import private_folder, settings_names
from bioengine_server.commands import shared
from bioengine_server.doctor import installation
from bioengine_server.doctor.setup import Setup
from bioengine_server.settings import Settings
from bioengine_server.settings_files import SettingsFileRefused, _check_safe_folder, read_settings_files

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's file, which is not there yet; the home is `home` beside it."""
    for name in [name for name in os.environ if name.startswith("BIOENGINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".bioengine").mkdir(mode=0o700)
    (tmp_path / "home").mkdir(mode=0o700)
    file = tmp_path / "machine.env"
    monkeypatch.setenv("BIOENGINE_SETTINGS", str(file))
    shared.note.cache_clear()
    return file


def write(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_flags_win_over_the_environment_that_over_the_homes_file_that_over_the_machines(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("PORT", "QUEUE_SIZE", "CONCURRENCY", "MODEL_CONCURRENCY")
    write(machine, "".join(f"BIOENGINE_{name}=11\n" for name in names))
    write(tmp_path / "home" / "bioengine.env", "".join(f"BIOENGINE_{name}=12\n" for name in names[:3]))
    for name in names[:2]:
        monkeypatch.setenv(f"BIOENGINE_{name}", "13")
    found = shared.load_settings(home=tmp_path / "home", port=14)
    assert [getattr(found, name.lower()) for name in names] == [14, 13, 12, 11]
    assert found.home == tmp_path / "home" and found.queue_size == 13 and found.probe_interval == Settings().probe_interval


def test_the_machines_file_may_name_the_home(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(machine, f"BIOENGINE_HOME={tmp_path}/home\n")
    write(tmp_path / "home" / "bioengine.env", "BIOENGINE_PORT=12\n")
    write(tmp_path / ".bioengine" / "bioengine.env", "BIOENGINE_PORT=13\n")
    assert (shared.load_settings().home, shared.load_settings().port) == (tmp_path / "home", 12)
    monkeypatch.setenv("BIOENGINE_HOME", str(tmp_path / ".bioengine"))
    assert shared.load_settings().port == 13
    monkeypatch.setenv("BIOENGINE_SETTINGS", "")
    monkeypatch.delenv("BIOENGINE_HOME")
    assert read_settings_files().home == tmp_path / ".bioengine"


def test_lines(machine: Path) -> None:
    write(
        machine,
        "# a comment\n\n  export BIOENGINE_PORT = 12  # of ours\nBIOENGINE_ALLOW_ORIGINS=\nBIOENGINE_RUN_DIR=\n"
        "BIOENGINE_HOST='::1' # loopback\nBIOENGINE_PUBLIC_URL=\"https://a/b\"\nBIOENGINE_COLLECTION_URL=https://a/#{id}$X\n",
    )
    found = shared.load_settings()
    assert (found.port, found.allow_origins, found.run_dir, found.host) == (12, "", None, "::1")
    assert (found.public_url, found.collection_url) == ("https://a/b", "https://a/#{id}$X")


@pytest.mark.parametrize("line", ["BIOENGINE_PORT 9", "BIOENGINE_HOST='a", "BIOENGINE_HOST='a'b", "-x=1", "=3"])
def test_what_is_no_setting_is_named_by_its_line(machine: Path, line: str) -> None:
    write(machine, f"# first\n{line}\n")
    with pytest.raises(SettingsFileRefused, match=rf"{re.escape(str(machine))}, line 2: expected NAME=value"):
        read_settings_files()


def test_an_empty_setting_counts_as_none(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path would be the folder that the command is started in."""
    for name in ("RUN_DIR", "HOME", "TRITON_PORT", "ACCESS", "TRITON_SECRET", "ID_MAP_URL"):
        monkeypatch.setenv(f"BIOENGINE_{name}", "")
    found = shared.load_settings()
    assert (found.run_dir, found.triton_port, found.access, found.triton_secret) == (None, None, "auto", None)
    assert found.home == Path.home() / ".bioengine" and found.id_map_url == ""


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(machine: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folder, "is_own_group", lambda number: False)
    write(machine, "BIOENGINE_PORT=12\n", mode)
    with pytest.raises(SettingsFileRefused, match=rf"others can write to it\. chmod go-w '{re.escape(str(machine))}'"):
        read_settings_files()
    with pytest.raises(SystemExit):
        shared.load_settings()
    machine.chmod(0o644)
    assert shared.load_settings().port == 12


def test_a_home_on_a_volume_of_kubernetes_may_have_a_file(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fsGroup, all that is in it can be written by the pod's own group, at each start of the pod."""
    monkeypatch.setattr(private_folder, "is_own_group", lambda number: True)
    home = tmp_path / "home"
    write(home / "bioengine.env", "BIOENGINE_PORT=12\n", 0o660)
    home.chmod(0o2770)
    assert read_settings_files(home).get("BIOENGINE_PORT") == "12"
    home.chmod(0o2772)
    with pytest.raises(SettingsFileRefused, match="others can replace it"):
        read_settings_files(home)


def test_a_file_that_others_may_replace_is_refused(machine: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(home / "bioengine.env", "BIOENGINE_PORT=12\n")
    home.chmod(0o777)
    with pytest.raises(SettingsFileRefused, match=rf"others can replace it.* chmod go-w '{re.escape(str(home))}'"):
        read_settings_files(home)
    home.chmod(0o1777)
    with pytest.raises(
        SettingsFileRefused, match=rf"everybody has files in {re.escape(str(home))}\. Move it to a folder of your own"
    ):
        read_settings_files(home)
    home.chmod(0o755)
    assert read_settings_files(home).get("BIOENGINE_PORT") == "12"


@pytest.mark.parametrize("mode", [0o777, 0o1777])
@pytest.mark.parametrize("where", ["link", "between", "file"])
def test_a_link_is_as_safe_as_every_folder_that_it_leads_through(machine: Path, tmp_path: Path, where: str, mode: int) -> None:
    folders = {name: tmp_path / name for name in ("link", "between", "file")}
    for folder in folders.values():
        folder.mkdir(mode=0o700)
    write(folders["file"] / "bioengine.env", "BIOENGINE_PORT=12\n")
    (folders["between"] / "second").symlink_to("../file/bioengine.env")
    (folders["link"] / "bioengine.env").symlink_to(folders["between"] / "second")
    assert read_settings_files(folders["link"]).get("BIOENGINE_PORT") == "12"
    folders[where].chmod(mode)
    with pytest.raises(SettingsFileRefused, match="others can replace it"):
        read_settings_files(folders["link"])


@pytest.mark.parametrize("where", ["link", "file"])
def test_a_file_in_a_folder_of_another_user_is_refused(
    machine: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above: for anybody but root, we are another, and only the folder is looked at."""
    for name in ("link", "file"):
        (tmp_path / name).mkdir(mode=0o755)
    write(tmp_path / "file" / "bioengine.env", "BIOENGINE_PORT=12\n")
    (tmp_path / "link" / "bioengine.env").symlink_to(tmp_path / "file" / "bioengine.env")
    assert read_settings_files(tmp_path / "link").get("BIOENGINE_PORT") == "12"
    is_root = os.getuid() == 0
    if is_root:
        os.chown(tmp_path / where, 4321, 4321)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(SettingsFileRefused, match=r"the folder .* belongs to another user \(number \d+\)"):
        if is_root:
            read_settings_files(tmp_path / "link")
        else:
            _check_safe_folder(tmp_path / "link" / "bioengine.env", tmp_path / where)


def test_a_file_of_another_user_is_refused(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can give a file to another user: for anybody else, we are another."""
    write(machine, "BIOENGINE_PORT=12\n")
    if os.getuid() == 0:
        os.chown(machine, 4321, 4321)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(SettingsFileRefused, match=r"belongs to another user \(number \d+\)"):
        read_settings_files()


def test_a_wrong_value_names_its_file(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(machine, "BIOENGINE_PORT=none\n")
    with pytest.raises(SystemExit):
        shared.load_settings()
    assert f"it is 'none', in {machine}" in capsys.readouterr().err


def test_unknown_names_are_told_once_with_the_nearest(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BIOENGINE_ACESS", "token")
    monkeypatch.setenv("BIOENGINE_TOKEN", "x")
    home = tmp_path / "home"
    write(home / "bioengine.env", "BIOENGINE_OFLINE=1\nBIOENGINE_HOME=/x\nBIOENGINE_PYTHON=/x\nBIOENGINE_GPUS=1\nQQ=1\n")
    shared.load_settings(home=home)
    shared.load_settings(home=home)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == 6
    for line, texts in zip(
        lines,
        [
            ("BIOENGINE_ACESS", "Did you mean BIOENGINE_ACCESS?"),
            ("BIOENGINE_OFLINE", str(home), "Did you mean BIOENGINE_OFFLINE?"),
            ("BIOENGINE_HOME does nothing in", "/etc/bioengine.env"),
            ("BIOENGINE_PYTHON does nothing in", "an environment variable"),
            ("BIOENGINE_GPUS does nothing in", ".env"),
            ("no setting QQ", "docs/settings.md"),
        ],
    ):
        assert line.startswith("note: ") and all(text in line for text in texts), line


def test_a_token_may_stand_in_a_file(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOENGINE_TOKEN", "mine")
    write(machine, "BIOENGINE_TOKEN=theirs\n")
    shared.load_settings()
    assert os.environ["BIOENGINE_TOKEN"] == "mine"
    monkeypatch.delenv("BIOENGINE_TOKEN")
    shared.load_settings()
    assert os.environ["BIOENGINE_TOKEN"] == "theirs"


def test_doctor_says_which_files_were_read(machine: Path, tmp_path: Path) -> None:
    setup = Setup(Settings(home=tmp_path / "home"), {})
    (finding,) = installation.settings_files(setup)
    assert finding.verdict == "ok" and "none" in finding.found
    write(machine, "BIOENGINE_TOKEN=theirs\nBIOENGINE_PRT=1\n", 0o644)
    finding, unknown = installation.settings_files(setup)
    assert finding.verdict == "problem" and f"{machine}: BIOENGINE_PRT, BIOENGINE_TOKEN" in finding.found
    assert finding.advice == f"chmod go-r '{machine}'" and "theirs" not in finding.found
    assert unknown.verdict == "note" and "BIOENGINE_PORT" in unknown.found


def test_all_names_are_known() -> None:
    """Those of both settings classes, of the compose file by its example, and of the docs; and none that nobody reads."""
    runner = (ROOT / "model_runner" / "bioengine_runner" / "settings.py").read_text()
    of_runner = {f"BIOENGINE_{name.upper()}" for name in re.findall(r"^    (\w+): ", runner, flags=re.MULTILINE)}
    assert settings_names.OF_TRITON_ONLY == of_runner - settings_names.OF_SERVER
    of_example = set(re.findall(r"^#?(BIOENGINE_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    compose = set(re.findall(r"BIOENGINE_\w+", (ROOT / "docker-compose.yml").read_text()))
    assert settings_names.OF_COMPOSE_ONLY == compose - settings_names.OF_SERVER
    assert of_example == settings_names.KNOWN - (settings_names.OF_TRITON_ONLY - settings_names.OF_COMPOSE_ONLY)
    of_docs = set(re.findall(r"`(BIOENGINE_\w+)`", (ROOT / "docs" / "settings.md").read_text()))
    assert of_docs == settings_names.KNOWN


def test_a_user_without_a_home_folder_is_told_to_name_one(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(SettingsFileRefused, match=r"no home folder.*--home"):
        read_settings_files()
    with pytest.raises(ValueError, match="no home folder"):
        Settings(home=Path("~/x"))
    read_settings_files(machine.parent / "home")


def test_the_url_of_an_address_of_ipv6_has_brackets() -> None:
    urls = [Settings(host=host, port=9520).url for host in ("::1", "[::1]", "::", "localhost", "10.0.0.1")]
    hosts = ("[::1]", "[::1]", "127.0.0.1", "localhost", "10.0.0.1")
    assert urls == [f"http://{host}:9520" for host in hosts]
