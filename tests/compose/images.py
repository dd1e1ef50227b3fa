"""The project's images, built by its own Dockerfiles without any registry.

The base images are stand-ins: Debian bookworm by debootstrap, with Triton from the nvidia-pytriton wheel laid out as NVIDIA's
image has it, and Debian's caddy. Python packages come from a folder that is filled once and served on loopback.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.compose.engine import Engine
from tests.stack.harness import ENVIRONMENTS, ROOT, python

DOCKERFILES = {
    "server": "server/Dockerfile",
    "triton": "model_runner/Dockerfile",
    "worker": "model_runner/Dockerfile",
    "proxy": "deploy/caddy/Dockerfile",
}
_TARGETS = {"triton", "worker"}  # parts of a Dockerfile that has several
_DEBIAN = "bioengine-tests-debian"


def gather(folder: Path) -> None:
    """What the images are made of, from the networks of this machine: Python packages and a Debian."""
    with ThreadPoolExecutor() as both:
        for work in (both.submit(_fill_wheelhouse, folder / "wheels"), both.submit(_debootstrap, folder / "debian")):
            work.result()


def build_images(engine: Engine, folder: Path) -> None:
    """Build bioengine-server, -triton, -worker and -proxy of what was gathered, all with the tag `local`."""
    _import_bases(engine, folder)
    checkout = folder / "checkout"
    _copy_checkout(checkout)
    with _served(folder / "wheels") as url:
        for name, dockerfile in DOCKERFILES.items():
            options = ["--network=host", "--build-arg=PIP_NO_INDEX=1", f"--build-arg=PIP_FIND_LINKS={url}"]
            options += [f"--target={name}"] if name in _TARGETS else []
            file, tag = checkout / dockerfile, f"bioengine-{name}:local"
            engine.docker("build", "--quiet", *options, f"--file={file}", f"--tag={tag}", str(checkout))


def _copy_checkout(folder: Path) -> None:
    """What images are built from, with the modes that a checkout has where its owner's umask is 077."""
    folder.mkdir()
    shutil.copy2(ROOT / ".dockerignore", folder)
    for name in ("contract", "server", "model_runner", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["chmod", "-R", "go=", str(folder)], check=True)


def base_image(name: str, argument: str) -> str:
    """The default of a build argument in a Dockerfile of ours."""
    found = re.search(rf"^ARG {argument}=(\S+)$", (ROOT / DOCKERFILES[name]).read_text(), re.MULTILINE)
    assert found, argument
    return found[1]


def _debootstrap(folder: Path) -> None:
    include = "--include=python3,python3-venv,libpython3.11,ca-certificates,openssl"
    run = subprocess.run(["debootstrap", "--variant=minbase", include, "bookworm", str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]


def _fill_wheelhouse(folder: Path) -> None:
    """What the images' environments are made of, as pip finds it on this machine."""
    runner = ROOT / "model_runner"
    for environment, file in (
        ("server", ROOT / "server" / "requirements.lock"),
        ("server", ROOT / "server" / "requirements-no-deps.lock"),
        ("runner", runner / "requirements-cpu.lock"),
        ("runner", runner / "requirements-torch.txt"),
    ):
        _download(environment, folder, "-r", str(file))
    # The base's Python is 3.11.2, and for that one redis wants it, in the version of the lock file.
    (wanted,) = re.findall(r"^async-timeout==\S+", (ROOT / "server" / "requirements.lock").read_text(), re.MULTILINE)
    _download("server", folder, wanted)


def _download(environment: str, folder: Path, *arguments: str) -> None:
    command = [python(environment), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


def _import_bases(engine: Engine, folder: Path) -> None:
    """The base images under the names that the Dockerfiles ask for."""
    rootfs = subprocess.Popen(["tar", "-C", str(folder / "debian"), "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(
        ["docker", "import", "-", _DEBIAN], stdin=rootfs.stdout, env=engine.environment(), check=True, stdout=subprocess.DEVNULL
    )
    assert rootfs.wait() == 0
    engine.docker("tag", _DEBIAN, base_image("server", "BASE_IMAGE"))

    triton = folder / "triton"
    server = ENVIRONMENTS / "triton" / "wheel"
    shutil.copytree(server / "pytriton" / "tritonserver" / "bin", triton / "bin")
    shutil.copytree(ENVIRONMENTS / "triton" / "backends", triton / "backends", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(server / "nvidia_pytriton.libs", triton / "lib")
    # Its Python backend's process, for the base's Python.
    shutil.copy2(
        server / "pytriton" / "tritonserver" / "python_backend_stubs" / "3.11" / "triton_python_backend_stub",
        triton / "backends" / "python",
    )
    (triton / "TRITON_VERSION").write_text("2.51.0\n")
    _build_base(
        engine,
        triton,
        base_image("triton", "TRITON_IMAGE"),
        "COPY . /opt/tritonserver",
        "RUN echo /opt/tritonserver/lib > /etc/ld.so.conf.d/tritonserver.conf && ldconfig",
    )

    caddy = folder / "caddy"
    caddy.mkdir()
    shutil.copy2(shutil.which("caddy") or "", caddy)
    _build_base(engine, caddy, base_image("proxy", "CADDY_IMAGE"), "COPY caddy /usr/bin/caddy")


def _build_base(engine: Engine, context: Path, tag: str, *lines: str) -> None:
    (context / "Dockerfile").write_text("\n".join((f"FROM {_DEBIAN}", *lines)) + "\n")
    engine.docker("build", "--quiet", "--network=host", f"--tag={tag}", str(context))


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The folder's URL on loopback, as long as the context is open."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=os.fspath(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
