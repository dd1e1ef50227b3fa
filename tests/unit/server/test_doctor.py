"""`bioengine doctor`: what it finds. A GPU, its driver and Docker's runtime for it are fakes here, on a machine that has none."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.doctor import gpu, installation, machine, network
from bioengine_server.doctor.examine import EXAMINATIONS, examine
from bioengine_server.doctor.finding import Finding
from bioengine_server.doctor.setup import Setup
from bioengine_server.hypha.secrets import home_secret
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import SHIPPED_PACKAGES
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def setup(tmp_path: Path, compose: dict[str, str] | None = None, **settings: Any) -> Setup:
    return Setup(Settings(**{"home": tmp_path / "home", **settings}), compose or {})


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def program(folder: Path, name: str, script: str) -> None:
    """A fake program, found before all others."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_every_examination_says_something_and_none_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Setup) -> Iterator[Finding]:
        raise RuntimeError("no idea")
        yield

    monkeypatch.setattr("bioengine_server.doctor.examine.EXAMINATIONS", (broken, *EXAMINATIONS))
    first, *others = examine(setup(tmp_path, offline=True))
    assert first.verdict == "problem" and "no idea" in first.found
    assert len(others) >= len(EXAMINATIONS)
    assert all(finding.found and (finding.advice or finding.verdict == "ok") for finding in others)
    assert not (tmp_path / "home").exists(), "nothing is changed"


def test_compose_settings_come_from_the_env_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("# a comment\nBIOENGINE_RUNTIME=nvidia\nBIOENGINE_HTTPS_NAME='one.lab'\nBIOENGINE_TLS_KEY=\nOTHER=1\n")
    monkeypatch.setenv("BIOENGINE_HTTPS_NAME", "two.lab")
    found = Setup.from_environment(Settings(), file)
    assert found.wants_gpu == "BIOENGINE_RUNTIME=nvidia for the containers"
    assert found.compose["BIOENGINE_HTTPS_NAME"] == "two.lab"
    assert not {"BIOENGINE_TLS_KEY", "OTHER"} & set(found.compose)


def test_what_stands_in_the_env_file_alone_is_named_and_not_taken_for_the_settings_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("BIOENGINE_ACCESS=token\nBIOENGINE_PORT=9999\nBIOENGINE_ACCELERATOR=cuda\nBIOENGINE_SHM_SIZE=4g\n")
    for name in ("BIOENGINE_ACCESS", "BIOENGINE_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BIOENGINE_PORT", "9998")
    found = Setup.from_environment(Settings(), file)
    finding = only(installation.env_file(found))
    assert finding.verdict == "note" and finding.found.startswith(
        "BIOENGINE_ACCELERATOR, BIOENGINE_ACCESS: only for the containers"
    )
    assert found.settings.port == 9998 and found.wants_gpu == "BIOENGINE_ACCELERATOR=cuda for the containers"
    assert list(installation.env_file(Setup.from_environment(Settings(), tmp_path / "none"))) == []


# --- the clock, by a host that tells another time


@pytest.fixture
def host() -> Iterator[tuple[str, list[datetime.timedelta]]]:
    ahead = [datetime.timedelta()]

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.datetime.now(datetime.UTC) + ahead[0], usegmt=True)

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{{id}}/rdf.yaml", ahead
    server.shutdown()


@pytest.mark.parametrize(("minutes", "verdict"), [(0, "ok"), (10, "problem"), (-10, "problem")])
def test_clock(tmp_path: Path, host: tuple[str, list[datetime.timedelta]], minutes: int, verdict: str) -> None:
    url, ahead = host
    ahead[0] = datetime.timedelta(minutes=minutes)
    finding = only(machine.clock(setup(tmp_path, collection_url=url)))
    assert finding.verdict == verdict and "127.0.0.1" in finding.found
    assert ("timedatectl" in finding.advice) == (verdict == "problem")


def test_clock_without_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/{{id}}"
    assert "did not return" in only(machine.clock(setup(tmp_path, collection_url=url))).advice
    assert "offline" in only(machine.clock(setup(tmp_path, collection_url=url, offline=True))).advice


# --- shared memory


def test_shared_memory_is_examined_where_this_server_and_its_triton_have_it(tmp_path: Path) -> None:
    assert only(machine.shared_memory(setup(tmp_path))).found.startswith("/dev/shm: ")
    elsewhere: Any = {"triton": "http://triton:8000"}
    assert list(machine.shared_memory(setup(tmp_path, **elsewhere))) == []
    assert only(machine.shared_memory(setup(tmp_path, **elsewhere, shared_tensors=tmp_path))).found.startswith(f"{tmp_path}: ")
    missing = only(machine.shared_memory(setup(tmp_path, **elsewhere, shared_tensors=tmp_path / "none")))
    assert missing.verdict == "problem" and "does not exist" in missing.found


# --- disks


def test_disk_that_is_nearly_full(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        home, run_dir = machine.disk(setup(tmp_path, home=folder / "home", run_dir=tmp_path / "run"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert home.verdict == "problem" and "prune" in home.advice
    assert run_dir.verdict == "ok"


# --- GPU and Docker


@pytest.mark.parametrize("compose", [{}, {"BIOENGINE_RUNTIME": "nvidia"}])
def test_without_a_driver(tmp_path: Path, programs: Path, compose: dict[str, str]) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    finding = only(gpu.driver(setup(tmp_path, compose)))
    assert finding.verdict == ("problem" if compose else "note")
    assert ("ubuntu-drivers" in finding.advice) == ("BIOENGINE_RUNTIME=nvidia" in finding.found) == bool(compose)


def test_a_gpu_elsewhere(tmp_path: Path) -> None:
    elsewhere = setup(tmp_path, triton="http://triton:8000")
    assert "docker compose exec triton" in only(gpu.driver(elsewhere)).advice
    assert list(gpu.docker(elsewhere)) == []


@pytest.mark.parametrize(
    ("script", "verdict", "says"),
    [
        ("echo 'NVIDIA RTX A4000, 580.65.06, 16376 MiB'", "ok", "580.65.06"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "problem", "mismatch"),
        ("echo 'No devices were found'; exit 6", "problem", "No devices"),
    ],
)
def test_driver(tmp_path: Path, programs: Path, script: str, verdict: str, says: str) -> None:
    program(programs, "nvidia-smi", script)
    finding = only(gpu.driver(setup(tmp_path)))
    assert finding.verdict == verdict and says in finding.found


def runner_that_says(folder: Path, answer: str) -> Path:
    """Environments whose model runner says something of the cards."""
    place = folder / "environments" / "runner" / "bin"
    place.mkdir(parents=True)
    program(place, "python", f"echo '{answer}'")
    return folder / "environments"


def test_what_the_model_runner_says_of_its_libraries_and_the_cards(tmp_path: Path) -> None:
    answer = (
        '{"cuda": [12, 4], "cards": [{"name": "Tesla V100", "capability": [7, 0], "memory": 16000000000, "is_virtual": false}],'
        ' "problems": [["it is too old", "Use another.", false], ["it is virtual", "Mind its licence.", true]]}'
    )
    environments = runner_that_says(tmp_path, answer)
    card, old, virtual = gpu.libraries(setup(tmp_path, environments=environments))
    assert (card.verdict, card.found) == ("ok", "Tesla V100: compute capability 7.0, 16 GB; driver for CUDA 12.4")
    assert (old.verdict, old.found, old.advice) == ("problem", "it is too old", "Use another.")
    assert (virtual.verdict, virtual.found) == ("note", "it is virtual")
    assert list(gpu.libraries(setup(tmp_path, environments=environments, accelerator="cpu"))) == []
    assert list(gpu.libraries(setup(tmp_path, environments=environments, triton="http://triton:8000"))) == []


def test_a_model_runner_that_does_not_work_is_told_of_elsewhere(tmp_path: Path) -> None:
    assert list(gpu.libraries(setup(tmp_path, environments=runner_that_says(tmp_path, "no JSON")))) == []
    assert list(gpu.libraries(setup(tmp_path, environments=tmp_path / "none"))) == []


@pytest.mark.parametrize(
    ("runtimes", "compose", "verdict"),
    [
        ("", {}, "note"),
        ("", {"BIOENGINE_RUNTIME": "nvidia"}, "problem"),
        (', "nvidia": {}', {"BIOENGINE_RUNTIME": "nvidia"}, "ok"),
    ],
)
def test_container_toolkit(tmp_path: Path, programs: Path, runtimes: str, compose: dict[str, str], verdict: str) -> None:
    information = f'{{"ServerVersion": "28.2.2", "Runtimes": {{"runc": {{}}{runtimes}}}}}'
    program(programs, "docker", f"case $1 in info) echo '{information}';; compose) echo 2.39.1;; esac")
    engine, composing, toolkit = gpu.docker(setup(tmp_path, compose))
    assert (engine.verdict, composing.found) == ("ok", "2.39.1")
    assert toolkit.verdict == verdict
    assert ("nvidia-ctk" in toolkit.advice) == (verdict == "problem")


def test_docker_without_an_engine(tmp_path: Path, programs: Path) -> None:
    program(programs, "docker", 'echo \'{"ServerErrors": ["Cannot connect to the Docker daemon"]}\'; exit 1')
    finding = only(gpu.docker(setup(tmp_path)))
    assert finding.verdict == "note" and "systemctl start docker" in finding.advice


# --- ports


def test_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        finding = only(network.port(setup(tmp_path, port=taken)))
        assert finding.verdict == "problem" and f"process {os.getpid()}" in finding.found and "--port" in finding.advice
    assert only(network.port(setup(tmp_path, port=taken))).verdict == "ok"


# --- certificates


def certificate(folder: Path, start: datetime.datetime, end: datetime.datetime, own_key: bool = True) -> dict[str, str]:
    """A certificate and a key in files, as the settings that name them."""
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bioengine.lab")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end)
    (folder / "lab.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (folder / "lab.key").write_bytes(
        (key if own_key else other).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return {"BIOENGINE_TLS_CERTIFICATE": str(folder / "lab.pem"), "BIOENGINE_TLS_KEY": str(folder / "lab.key")}


@pytest.mark.parametrize(
    ("start", "end", "verdict", "says"),
    [
        (-DAY, 90 * DAY, "ok", "valid until"),
        (-80 * DAY, 10 * DAY, "note", "expires on"),
        (-DAY / 4, DAY / 4, "ok", "valid until"),  # renewed by the proxy before each ends
        (-90 * DAY, -DAY, "problem", "expired on"),
        (DAY, 90 * DAY, "problem", "valid from"),
    ],
)
def test_certificate(tmp_path: Path, start: datetime.timedelta, end: datetime.timedelta, verdict: str, says: str) -> None:
    finding = only(network.certificate(setup(tmp_path, certificate(tmp_path, NOW + start, NOW + end))))
    assert finding.verdict == verdict and says in finding.found


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    files = certificate(tmp_path, NOW - DAY, NOW + 90 * DAY, own_key=False)
    assert "is not the key of" in only(network.certificate(setup(tmp_path, files))).found
    assert "(none)" in only(network.certificate(setup(tmp_path, {**files, "BIOENGINE_TLS_KEY": ""}))).found
    (tmp_path / "lab.pem").write_text("no certificate")
    assert "PEM" in only(network.certificate(setup(tmp_path, files))).found
    (tmp_path / "lab.pem").unlink()
    assert "No such file" in only(network.certificate(setup(tmp_path, files))).found


def test_certificate_of_a_proxy_that_is_away(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    away = {"BIOENGINE_HTTPS_NAME": "127.0.0.1", "BIOENGINE_HTTPS_PORT": port}
    assert "does not answer" in only(network.certificate(setup(tmp_path, away))).found


@pytest.mark.parametrize("port", ["abc", "0", "70000", "-1"])
def test_a_port_of_https_that_is_none(tmp_path: Path, port: str) -> None:
    finding = only(network.certificate(setup(tmp_path, {"BIOENGINE_HTTPS_NAME": "127.0.0.1", "BIOENGINE_HTTPS_PORT": port})))
    assert finding.verdict == "problem" and f"BIOENGINE_HTTPS_PORT is {port!r}, expected a number" in finding.found


# --- what is installed, the store, secrets


def test_versions(tmp_path: Path) -> None:
    server, runner = installation.versions(setup(tmp_path))
    assert "hypha 0.21" in server.found and "onnxruntime" in runner.found and runner.verdict == "ok"
    elsewhere = setup(tmp_path, environments=tmp_path / "none")
    assert [finding.verdict for finding in installation.versions(elsewhere)] == ["ok", "note"]
    broken = tmp_path / "broken" / "runner" / "bin"
    broken.mkdir(parents=True)
    program(broken, "python", "echo 'ImportError: libcublas.so.12' >&2; exit 1")
    _, finding = installation.versions(setup(tmp_path, environments=tmp_path / "broken"))
    assert finding.verdict == "problem" and "libcublas" in finding.found


def test_store(tmp_path: Path) -> None:
    home = setup(tmp_path)
    stored = ModelStore(home.settings.store).import_package(SHIPPED_PACKAGES / "bioengine-probe")
    assert only(installation.store(home)).found.endswith("1 models")
    trusting = setup(tmp_path, trusted_models=f"bioengine-probe@{'0' * 64}")
    unknown, _ = installation.store(trusting)
    assert unknown.verdict == "note" and "models show" in unknown.advice
    (stored.folder / "weights.onnx").unlink()
    lacking, _ = installation.store(home)
    assert lacking.verdict == "problem" and "weights.onnx" in lacking.found


def test_access(tmp_path: Path) -> None:
    assert only(installation.access(setup(tmp_path))).verdict == "ok"
    closed = setup(tmp_path, access="token")
    assert "token create" in only(installation.access(closed)).advice
    TokenRegistry(closed.settings.home).create("ada", 1)
    finding = only(installation.access(closed))
    assert finding.verdict == "ok" and "valid tokens: 1" in finding.found


def test_secrets(tmp_path: Path) -> None:
    home = setup(tmp_path)
    home_secret(home.settings.home, "hypha-jwt")
    assert only(installation.secrets(home)).verdict == "ok"
    file = home.settings.home / "secrets" / "hypha-jwt"
    file.chmod(0o644)
    finding = only(installation.secrets(home))
    assert finding.verdict == "problem" and finding.advice == f"chmod 600 {file}"


@pytest.mark.parametrize(
    ("settings", "verdict", "text"),
    [
        ({}, "ok", "localhost, 127.0.0.1"),
        ({"allow_hosts": "bioengine.lab"}, "ok", "bioengine.lab"),
        ({"host": "0.0.0.0"}, "note", socket.gethostname().lower()),
        ({"allow_hosts": "*"}, "note", "every name"),
    ],
    ids=str,
)
def test_the_names_of_the_server(tmp_path: Path, settings: dict[str, Any], verdict: str, text: str) -> None:
    finding = only(network.names(setup(tmp_path, **settings)))
    assert finding.verdict == verdict and text in finding.found
    assert verdict == "ok" or "BIOENGINE_ALLOW_HOSTS" in finding.advice


@pytest.mark.parametrize(
    ("settings", "verdict", "text"),
    [
        ({}, "ok", "http://127.0.0.1:9520"),
        ({"host": "0.0.0.0"}, "note", "not this machine for them"),
        ({"host": "0.0.0.0", "public_url": "https://bioengine.lab"}, "ok", "https://bioengine.lab"),
        ({"listen": "0.0.0.0"}, "ok", "http://127.0.0.1:9520"),
    ],
    ids=str,
)
def test_the_address_that_clients_are_told(tmp_path: Path, settings: dict[str, Any], verdict: str, text: str) -> None:
    finding = only(network.told_address(setup(tmp_path, **settings)))
    assert finding.verdict == verdict and text in finding.found
    assert verdict == "ok" or "BIOENGINE_PUBLIC_URL" in finding.advice


@pytest.mark.parametrize(
    ("origins", "verdict", "text"),
    [(None, "ok", "https://bioimage.io"), ("", "ok", "only its own"), ("https://a.lab,*", "note", "every page")],
    ids=str,
)
def test_the_pages_that_may_use_the_server(tmp_path: Path, origins: str | None, verdict: str, text: str) -> None:
    finding = only(network.pages(setup(tmp_path, {}, **({} if origins is None else {"allow_origins": origins}))))
    assert finding.verdict == verdict and text in finding.found
    assert verdict == "ok" or "BIOENGINE_ALLOW_ORIGINS" in finding.advice
