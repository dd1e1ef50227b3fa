"""Settings that cannot work: the container says so in one line, and ends."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.compose.engine import Engine
from tests.compose.project import Project

pytestmark = pytest.mark.extended

LINK = "/var/lib/bioengine-link"


def run(engine: Engine, service: str, volumes: dict[Path, str] | None = None, **options: Any) -> tuple[int, str]:
    """Exit status and output of a container that is not to stay."""
    mounts = {str(source): {"bind": target, "mode": "ro"} for source, target in (volumes or {}).items()}
    container = engine.client.containers.create(
        f"bioengine-{service}:local", network="none", volumes=mounts, init=True, read_only=True, **options
    )
    try:
        container.start()
        status = container.wait(timeout=60)["StatusCode"]
        return status, container.logs().decode()
    finally:
        container.remove(force=True)


def assert_told(outcome: tuple[int, str], *texts: str) -> None:
    status, output = outcome
    assert status != 0, output
    assert all(text in output for text in texts), output
    assert "Traceback" not in output


def tmpfs(*folders: str) -> dict[str, str]:
    return {folder: "uid=10001,gid=10001" for folder in ("/tmp", "/run/bioengine", *folders)}


@pytest.mark.parametrize(("name", "value"), [("QUEUE_SIZE", "many"), ("TRITON", "somewhere"), ("PUBLIC_URL", "bioengine.lab")])
def test_a_setting_of_the_server_that_cannot_be_used(engine: Engine, name: str, value: str) -> None:
    outcome = run(engine, "server", environment={f"BIOENGINE_{name}": value}, tmpfs=tmpfs())
    assert_told(outcome, "Some settings are not valid", name.lower(), value)


def test_a_setting_of_triton_that_cannot_be_used(engine: Engine) -> None:
    outcome = run(engine, "triton", environment={"BIOENGINE_RUN_TIMEOUT": "many"}, tmpfs=tmpfs(), shm_size="512m")
    assert_told(outcome, "BIOENGINE_RUN_TIMEOUT", "number")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize("setting", ["BIOENGINE_RUNTIME=nvidia", "BIOENGINE_ACCELERATOR=cuda"])
def test_a_gpu_that_is_asked_for_and_not_there(engine: Engine, setting: str) -> None:
    outcome = run(engine, "triton", environment=[setting], tmpfs=tmpfs(), shm_size="512m")
    assert_told(outcome, f"{setting} requires a GPU", "nvidia-smi")


def test_too_little_shared_memory(engine: Engine) -> None:
    outcome = run(engine, "triton", tmpfs=tmpfs(), shm_size="64m")
    assert_told(outcome, "/dev/shm has 64 MB", "BIOENGINE_SHM_SIZE")


def test_no_triton_where_it_should_be(engine: Engine) -> None:
    outcome = run(engine, "triton", environment={"BIOENGINE_TRITONSERVER": "/opt/none"}, tmpfs=tmpfs(), shm_size="512m")
    assert_told(outcome, "There is no Triton at /opt/none", "TRITON_IMAGE")


@pytest.mark.parametrize(("secret", "text"), [("short", "less than 32 characters"), (None, "are not set")])
def test_no_secret_for_triton(engine: Engine, tmp_path: Path, secret: str | None, text: str) -> None:
    volumes, environment = {}, {}
    if secret is not None:
        (tmp_path / "secret").write_text(secret)
        tmp_path.chmod(0o755)
        volumes, environment = {tmp_path: LINK}, {"BIOENGINE_TRITON_SECRET_FILE": f"{LINK}/secret"}
    outcome = run(engine, "triton", volumes, environment=environment, tmpfs=tmpfs(), shm_size="512m")
    assert_told(outcome, "Triton's secret is missing", text)


def test_no_secret_for_the_server(engine: Engine) -> None:
    outcome = run(engine, "server", environment={"BIOENGINE_TRITON": "http://triton:8000"}, tmpfs=tmpfs("/var/lib/bioengine"))
    assert_told(outcome, "BIOENGINE_TRITON_SECRET_FILE")


def test_a_disk_without_room(engine: Engine) -> None:
    environment = {"BIOENGINE_TRITON": "http://triton:8000", "BIOENGINE_TRITON_SECRET_FILE": f"{LINK}/secret"}
    room = {**tmpfs(LINK), "/var/lib/bioengine": "uid=10001,gid=10001,size=64k"}
    outcome = run(engine, "server", environment=environment, tmpfs=room)
    assert_told(outcome, "No space left on device", "free space")


def test_a_port_that_is_taken(own_project: Project) -> None:
    """Docker itself says so, before the server starts."""
    with socket.create_server(("127.0.0.1", own_project.port)):
        failed = own_project.compose("up", "--detach", "server", check=False)
    assert failed.returncode != 0
    assert f"{own_project.port}" in failed.stderr.decode() and "address already in use" in failed.stderr.decode()


@pytest.mark.parametrize(("setting", "named"), [("BIOENGINE_PORT", "services.server.ports"), ("BIOENGINE_SHM_SIZE", "many")])
def test_a_value_in_the_env_file_that_docker_cannot_use(own_project: Project, setting: str, named: str) -> None:
    good = own_project.settings
    own_project.settings = {**good, setting: "many"}
    failed = own_project.compose("up", "--detach", check=False)
    own_project.settings = good
    assert failed.returncode != 0 and named in failed.stderr.decode()


class Certificate:
    """A certificate for `localhost`, signed by itself."""

    def __init__(self, folder: Path, days: int = 10) -> None:
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        request = folder / "request.pem"
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", request, "-subj", "/CN=localhost")
        extension = folder / "extension"
        extension.write_text("subjectAltName=DNS:localhost\n")
        signing = ("-signkey", self.key, "-days", str(days), "-extfile", extension)
        self._openssl("x509", "-req", "-in", request, "-out", self.certificate, *signing)
        for file in (self.certificate, self.key):
            file.chmod(0o644)

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def mounts(self) -> dict[Path, str]:
        return {self.certificate: "/run/tls/certificate.pem", self.key: "/run/tls/key.pem"}


def run_proxy(engine: Engine, mounts: dict[Path, str], **environment: str) -> tuple[int, str]:
    given = {"BIOENGINE_HTTPS_NAME": "localhost", "CADDY_UPSTREAM": "127.0.0.1:9520", **environment}
    return run(
        engine, "proxy", mounts, environment=given, tmpfs=tmpfs("/data", "/config"), security_opt=["no-new-privileges:true"]
    )


def test_a_certificate_that_has_expired(engine: Engine, tmp_path: Path) -> None:
    outcome = run_proxy(engine, Certificate(tmp_path, days=-1).mounts())
    assert_told(outcome, "the certificate has expired (notAfter=", "BIOENGINE_TLS_CERTIFICATE")


def test_a_key_of_another_certificate(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mounts = Certificate(tmp_path).mounts() | {Certificate(tmp_path / "other").key: "/run/tls/key.pem"}
    del mounts[tmp_path / "key.pem"]
    assert_told(run_proxy(engine, mounts), "BIOENGINE_TLS_KEY is not the key of BIOENGINE_TLS_CERTIFICATE")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda pair: pair.key.chmod(0o600), "BIOENGINE_TLS_KEY cannot be read"),
        (lambda pair: pair.certificate.write_text("nothing"), "BIOENGINE_TLS_CERTIFICATE is not a certificate"),
        (lambda pair: (pair.certificate.unlink(), pair.certificate.mkdir()), "a file that was not there"),
    ],
    ids=["unreadable", "damaged", "missing"],
)
def test_a_certificate_that_cannot_be_used(engine: Engine, tmp_path: Path, fault: Any, text: str) -> None:
    pair = Certificate(tmp_path)
    fault(pair)
    assert_told(run_proxy(engine, pair.mounts()), text)


def test_a_certificate_without_its_key(engine: Engine, tmp_path: Path) -> None:
    mounts = {Certificate(tmp_path).certificate: "/run/tls/certificate.pem", Path("/dev/null"): "/run/tls/key.pem"}
    assert_told(run_proxy(engine, mounts), "BIOENGINE_TLS_KEY is empty")


def test_https_without_a_name(engine: Engine) -> None:
    assert_told(run_proxy(engine, {}, BIOENGINE_HTTPS_NAME=""), "BIOENGINE_HTTPS_NAME is empty")


def test_the_lab_s_own_certificate_is_served(engine: Engine, tmp_path: Path) -> None:
    pair = Certificate(tmp_path)
    mounts = {str(source): {"bind": target, "mode": "ro"} for source, target in pair.mounts().items()}
    container = engine.client.containers.create(
        "bioengine-proxy:local",
        network="none",
        volumes=mounts,
        init=True,
        read_only=True,
        cap_drop=["ALL"],
        environment={"BIOENGINE_HTTPS_NAME": "localhost", "CADDY_UPSTREAM": "127.0.0.1:9520"},
        tmpfs=tmpfs("/data", "/config"),
    )
    try:
        container.start()
        ask = "openssl s_client -connect 127.0.0.1:8443 -servername localhost </dev/null"
        shown = container.exec_run(["sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9; do {ask} && break; sleep 1; done"]).output.decode()
        body = "".join(pair.certificate.read_text().splitlines()[1:-1])
        assert body in shown.replace("\n", ""), shown
        # Without a server behind it, it says so.
        assert container.exec_run(["start", "health"]).output.decode().startswith("502")
    finally:
        container.remove(force=True)
