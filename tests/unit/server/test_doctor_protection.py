"""`bioengine doctor`: what it says of other users, and of what protects the machine from models."""

from __future__ import annotations

import hashlib
import pwd
import shutil
from pathlib import Path

import bioengine_server.other_users as other_users_of
import psutil
import pytest
import yaml
from bioengine_server.doctor import protection
from bioengine_server.doctor.setup import Setup
from bioengine_server.store.model_store import ModelStore

from tests.conversion import converting_settings
from tests.unit.server.test_doctor import only, program, setup


def test_other_users_and_how_they_reach_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protection, "other_users", lambda: "ada, grace")
    by_socket = only(protection.users(setup(tmp_path)))
    assert by_socket.verdict == "ok" and "ada, grace: Triton listens on a socket that they cannot open" in by_socket.found
    by_port = only(protection.users(setup(tmp_path, triton_port=8000)))
    assert by_port.verdict == "note" and "can read its secret from its command line" in by_port.found
    assert "BIOENGINE_TRITON_PORT" in by_port.advice
    assert list(protection.users(setup(tmp_path, triton="http://triton:8000"))) == []


def test_who_counts_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def account(name: str, number: int, shell: str = "/bin/bash") -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", number, number, "", "/", shell))

    nobody = account("nobody", 65534, "/usr/sbin/nologin")
    accounts = [account("root", 0), account("daemon", 1), nobody, account("ada", 1000), account("bot", 1001, "/bin/false")]
    monkeypatch.setattr(pwd, "getpwall", lambda: accounts)
    monkeypatch.setattr(psutil, "process_iter", lambda _: [])
    assert other_users_of.other_users() == "ada"
    accounts += [account(name, 1100 + number) for number, name in enumerate(("bob", "carl", "dora", "eve"))]
    assert other_users_of.other_users() == "ada, bob, carl and 2 more"


def test_a_home_that_others_can_look_into_or_change(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert only(protection.home(setup(tmp_path))).verdict == "ok"
    (home / "models").mkdir(parents=True)
    for mode, verdict in ((0o700, "ok"), (0o755, "note"), (0o777, "problem")):
        home.chmod(mode)
        finding = only(protection.home(setup(tmp_path)))
        assert finding.verdict == verdict and (verdict == "ok" or "chmod" in finding.advice)
    home.chmod(0o700)
    (home / "models").chmod(0o772)  # of the group alone this user may be the only member
    assert only(protection.home(setup(tmp_path))).verdict == "problem"


def test_what_a_kernel_lacks_for_confinement(tmp_path: Path) -> None:
    """The model runner's answer is a fake."""
    python = tmp_path / "environments" / "runner" / "bin"
    python.mkdir(parents=True)
    environments = tmp_path / "environments"
    answer = """echo '{"kernel": "%s", "has": "%s", "lacks": [%s], "cuda_error": %d}'"""
    program(python, "python", answer % ("seccomp", "seccomp", '"read all files"', 0))
    for confine, verdict in (("auto", "note"), ("require", "problem")):
        finding = only(protection.confinement(setup(tmp_path, environments=environments, confine=confine)))
        assert finding.verdict == verdict and finding.found == "the kernel has seccomp; models can still read all files"
    assert only(protection.confinement(setup(tmp_path, environments=environments, confine="off"))).verdict == "note"
    program(python, "python", answer % ("Landlock 7 and seccomp", "seccomp", '"read all files"', 304))
    finding = only(protection.confinement(setup(tmp_path, environments=environments)))
    assert finding.verdict == "note" and "of which seccomp is used: NVIDIA's driver does not start with more" in finding.found
    assert "(CUDA's error 304)" in finding.found and "BIOENGINE_ACCELERATOR=cpu" in finding.advice
    program(python, "python", answer % ("Landlock 7 and seccomp", "Landlock 7 and seccomp", "", 0))
    assert only(protection.confinement(setup(tmp_path, environments=environments))).verdict == "ok"


def test_what_confines_a_triton_in_another_container(tmp_path: Path) -> None:
    finding = only(protection.confinement(setup(tmp_path, triton="http://triton:8000", triton_secret_file=tmp_path / "secret")))
    assert finding.verdict == "note" and "docker compose logs triton" in finding.advice


def test_models_that_wait_for_their_conversion(tmp_path: Path, packages: Path) -> None:
    """With the model runner's environment in place of the one for conversions: only whether it is there is asked."""
    home = tmp_path / "home"
    assert only(protection.conversion(setup(tmp_path))).verdict == "ok"
    ModelStore(home / "models").import_package(packages / "state-dict-stork")
    missing = only(protection.conversion(setup(tmp_path, environments=tmp_path / "nowhere")))
    assert missing.verdict == "note" and "./bioengine environments add convert" in missing.advice
    keras = with_keras_alone(packages / "conscientious-seashell", tmp_path / "keras")
    ModelStore(home / "models").import_package(keras, id="keras-kiwi")
    both = only(protection.conversion(setup(tmp_path, environments=tmp_path / "nowhere")))
    assert both.found.endswith("yet: 2") and "`./bioengine environments add tensorflow`, then" in both.advice
    ModelStore(home / "models").remove("keras-kiwi")
    there = only(protection.conversion(converting(tmp_path)))
    assert there.verdict == "note" and "./bioengine models show state-dict-stork" in there.advice


def with_keras_alone(package: Path, folder: Path) -> Path:
    """A copy of a package, with a file that is said to be of Keras in place of its weights."""
    shutil.copytree(package, folder)
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    (folder / "weights.h5").write_bytes(b"not opened here")
    sha256 = hashlib.sha256(b"not opened here").hexdigest()
    rdf["weights"] = {"keras_hdf5": {"source": "weights.h5", "sha256": sha256, "tensorflow_version": "2.10"}}
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    return folder


def converting(folder: Path) -> Setup:
    return Setup(converting_settings(folder), {})
