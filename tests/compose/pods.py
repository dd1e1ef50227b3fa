"""The chart's pods, run by podman from what Helm renders, since no Kubernetes can be had for tests.

What podman does not do is done here, as kubelet does it: volumes get the owner, group and mode that `fsGroup` gives them, memory
is a tmpfs, and each pod has volumes of its own. The service's name leads to the server's pod. Nothing here restarts pods, runs
probes, enforces a NetworkPolicy or scales.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

from tests.compose.engine import CannotRun
from tests.stack.harness import ROOT

CHART = ROOT / "deploy" / "helm" / "bioengine"
USER = 10001
SERVER, WORKER = "bioengine-server", "bioengine-worker"

# An engine of its own, which asks for no more open files and processes than there may be here.
_MOST = 16384
_CONFIGURATION = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_config_dir = "{folder}/networks"
"""
_NETWORK, _SUBNET = "pods", "172.31.0.0/24"
_ADDRESSES = {SERVER: "172.31.0.10", WORKER: "172.31.0.11"}
URL = f"http://{_ADDRESSES[SERVER]}:9520"


def rendered(**values: Any) -> dict[str, list[dict[str, Any]]]:
    """What Helm makes of the chart, by kind."""
    with Chart.load(CHART) as chart:
        files = chart.render({"image": {"registry": "localhost", "tag": "local"}, **values}, name="bioengine", namespace="lab")
    found: dict[str, list[dict[str, Any]]] = {}
    for name, text in files.items():
        for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            if document:
                found.setdefault(document["kind"], []).append(document)
    return found


class Pods:
    """Podman with data and networks of its own, and the chart's pods on it."""

    def __init__(self) -> None:
        if shutil.which("podman") is None or os.getuid() != 0:
            raise CannotRun
        self.folder = Path(tempfile.mkdtemp(prefix="bioengine-podman-"))
        files, processes = (min(_MOST, resource.getrlimit(limit)[1]) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
        configuration = _CONFIGURATION.format(folder=self.folder, files=files, processes=processes)
        (self.folder / "containers.conf").write_text(configuration)
        self.podman("network", "create", "--disable-dns", f"--subnet={_SUBNET}", _NETWORK)

    def podman(self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 600) -> str:
        """What a command of podman prints."""
        run = self._run(*arguments, stdin=stdin, timeout=timeout)
        assert not check or run.returncode == 0, f"podman {' '.join(arguments)}:\n{run.stdout}{run.stderr}"
        return run.stdout + run.stderr

    def exec(self, deployment: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the container of a deployment."""
        return self._run("exec", container(deployment), *command)

    def create(self, documents: dict[str, list[dict[str, Any]]]) -> None:
        """Make the pods, without starting them."""
        for claim in documents["PersistentVolumeClaim"]:
            self._volume(claim["metadata"]["name"], mode=0o2775)
        for deployment in documents["Deployment"]:
            self._play(deployment, documents["Secret"])

    def start(self, deployment: str) -> None:
        self.podman("pod", "start", f"{deployment}-pod")

    def stop(self, deployment: str, seconds: int) -> None:
        """SIGTERM, and after so many seconds SIGKILL, as kubelet does."""
        self.podman("stop", f"--time={seconds}", container(deployment))

    def state(self, deployment: str) -> dict[str, Any]:
        (found,) = yaml.safe_load(self.podman("inspect", container(deployment)))
        return dict(found["State"])

    def logs(self) -> str:
        return "".join(f"{name}:\n{self.podman('logs', '--tail=60', container(name), check=False)}" for name in (SERVER, WORKER))

    def close(self) -> None:
        """End the pods; nothing stays."""
        try:
            self.podman("pod", "rm", "--all", "--force", "--time=1", check=False)
            self.podman("volume", "rm", "--all", "--force", check=False)
        finally:
            mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
            for mount in sorted((mount for mount in mounts if mount.startswith(f"{self.folder}/")), reverse=True):
                subprocess.run(["umount", "-l", mount])
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *arguments: str, stdin: str | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        folders = [f"--root={self.folder}/root", f"--runroot={self.folder}/run", f"--tmpdir={self.folder}/tmp"]
        environment = {**os.environ, "CONTAINERS_CONF": f"{self.folder}/containers.conf"}
        return subprocess.run(
            ["podman", *folders, *arguments], env=environment, input=stdin, capture_output=True, text=True, timeout=timeout
        )

    def _play(self, deployment: dict[str, Any], secrets: list[dict[str, Any]]) -> None:
        name, pod = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
        for volume in pod["volumes"]:
            if (directory := volume.get("emptyDir")) is not None:
                # Podman takes volumes of one name for one, whichever pod they are in.
                renamed = f"{name}-{volume['name']}"
                for mount in _mounts_of(pod, volume["name"]):
                    mount["name"] = renamed
                volume["name"] = renamed
                self._volume(renamed, mode=0o2777, memory=directory["sizeLimit"] if "medium" in directory else "")
        pod["hostAliases"] = [{"ip": _ADDRESSES[SERVER], "hostnames": ["bioengine"]}]
        pod["hostname"] = name
        text = yaml.safe_dump_all([*secrets, deployment])
        network = f"{_NETWORK}:ip={_ADDRESSES[name]}"
        self.podman("kube", "play", "--start=false", f"--network={network}", "-", stdin=text)
        for volume in pod["volumes"]:
            if "secret" in volume:
                self._give_secret(volume["secret"])

    def _volume(self, name: str, mode: int, memory: str = "") -> None:
        """A volume as kubelet mounts it: of root, open to the pod's group."""
        options = []
        if memory:
            size = memory.removesuffix("i").lower()
            options = ["--opt=type=tmpfs", "--opt=device=tmpfs", f"--opt=o=mode={mode:o},gid={USER},size={size}"]
        self.podman("volume", "create", *options, name)
        # Used once, or podman gives it to the user of the container that is the first.
        image = f"localhost/{SERVER}:local"
        self.podman("run", "--rm", "--network=none", "--user=0", f"--volume={name}:/volume", image, "true")
        if not memory:
            folder = self._folder_of(name)
            os.chown(folder, 0, USER)
            folder.chmod(mode)

    def _give_secret(self, secret: dict[str, Any]) -> None:
        folder = self._folder_of(secret["secretName"])
        for path in (folder, *folder.iterdir()):
            os.chown(path, 0, USER)
            path.chmod(0o2770 if path.is_dir() else secret["defaultMode"])

    def _folder_of(self, volume: str) -> Path:
        return Path(self.podman("volume", "inspect", "--format={{.Mountpoint}}", volume).strip())


def container(deployment: str) -> str:
    return f"{deployment}-pod-{deployment.rpartition('-')[2]}"


def _mounts_of(pod: dict[str, Any], volume: str) -> Iterator[dict[str, Any]]:
    for each in pod["containers"]:
        yield from (mount for mount in each["volumeMounts"] if mount["name"] == volume)
