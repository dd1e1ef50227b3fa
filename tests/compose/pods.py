"""The chart's pods, run by podman from what Helm renders, since no Kubernetes can be had for tests.

What podman does not do is done here, as kubelet does it: volumes get the owner, group and mode that `fsGroup` gives them, memory
is a tmpfs, and each pod has volumes of its own. The service's name leads to the server's pod. Nothing here restarts pods, runs
probes, enforces a NetworkPolicy or scales.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import tempfile
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
infra_image = "localhost/pause"
runtime = "runc"
[network]
network_config_dir = "{folder}/networks"
"""
_NETWORK, _SUBNET = "pods", "172.31.0.0/24"
# With hardware addresses that stay when a pod is started again: its neighbours remember them for half a minute.
_ADDRESSES = {SERVER: ("172.31.0.10", "02:00:00:00:00:10"), WORKER: ("172.31.0.11", "02:00:00:00:00:11")}
_HOME, _FOLDER, _MEMORY = "home", "folder", "memory"  # kinds of volumes
URL = f"http://{_ADDRESSES[SERVER][0]}:9520"


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
        self._ids: dict[str, tuple[str, str]] = {}  # of each deployment's pod and container
        self.podman("network", "create", "--disable-dns", f"--subnet={_SUBNET}", _NETWORK)

    def podman(self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 600) -> str:
        """What a command of podman prints."""
        run = self._run(*arguments, stdin=stdin, timeout=timeout)
        assert not check or run.returncode == 0, f"podman {' '.join(arguments)}:\n{run.stdout}{run.stderr}"
        return run.stdout + run.stderr

    def load(self, archive: Path) -> None:
        """Take the images over, and make one that does nothing, which holds a pod's network."""
        self.podman("load", f"--input={archive}")
        pause = f'FROM localhost/{SERVER}:local\nENTRYPOINT ["sleep", "infinity"]\nCMD []\nSTOPSIGNAL SIGKILL\n'
        self.podman("build", "--quiet", "--tag=localhost/pause", "-", stdin=pause)

    def exec(self, deployment: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the container of a deployment."""
        return self._run("exec", self._container(deployment), *command)

    def create(self, documents: dict[str, list[dict[str, Any]]]) -> None:
        """Make the pods, without starting them."""
        volumes = {claim["metadata"]["name"]: _HOME for claim in documents["PersistentVolumeClaim"]}
        for deployment in documents["Deployment"]:
            volumes |= _own_volumes(deployment)
        self._make(volumes)
        for deployment in documents["Deployment"]:
            self._play(deployment, documents["Secret"])

    def start(self, deployment: str) -> None:
        self.podman("pod", "start", self._ids[deployment][0])

    def stop(self, deployment: str, seconds: int) -> None:
        """SIGTERM, and after so many seconds SIGKILL, as kubelet does."""
        self.podman("stop", f"--time={seconds}", self._container(deployment))

    def state(self, deployment: str) -> dict[str, Any]:
        (found,) = yaml.safe_load(self.podman("inspect", self._container(deployment)))
        return dict(found["State"])

    def logs(self) -> str:
        return "".join(f"{name}:\n{self.podman('logs', '--tail=60', ids[1], check=False)}" for name, ids in self._ids.items())

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

    def _container(self, deployment: str) -> str:
        return self._ids[deployment][1]

    def _run(self, *arguments: str, stdin: str | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        folders = [f"--root={self.folder}/root", f"--runroot={self.folder}/run", f"--tmpdir={self.folder}/tmp"]
        environment = {**os.environ, "CONTAINERS_CONF": f"{self.folder}/containers.conf"}
        return subprocess.run(
            ["podman", *folders, *arguments], env=environment, input=stdin, capture_output=True, text=True, timeout=timeout
        )

    def _play(self, deployment: dict[str, Any], secrets: list[dict[str, Any]]) -> None:
        name, pod = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
        pod["hostAliases"] = [{"ip": _ADDRESSES[SERVER][0], "hostnames": ["bioengine"]}]
        pod["hostname"] = name
        text = yaml.safe_dump_all([*secrets, deployment])
        ip, mac = _ADDRESSES[name]
        network = f"{_NETWORK}:ip={ip},mac={mac}"
        said = self.podman("kube", "play", "--start=false", f"--network={network}", "-", stdin=text)
        pod_id, container_id = re.findall(r"^[0-9a-f]{64}$", said, re.MULTILINE)
        self._ids[name] = (pod_id, container_id)
        for volume in pod["volumes"]:
            if "secret" in volume:
                self._give_secret(volume["secret"])

    def _make(self, volumes: dict[str, str]) -> None:
        """Volumes as kubelet mounts them: of root, and open to the pod's group."""
        for name, kind in volumes.items():
            memory = ("--opt=type=tmpfs", "--opt=device=tmpfs", f"--opt=o=mode=2777,gid={USER}") if kind == _MEMORY else ()
            self.podman("volume", "create", *memory, name)
        # Used once, or podman gives them to the user of the container that is the first.
        mounts = [f"--volume={name}:/volumes/{name}" for name in volumes]
        image = f"localhost/{SERVER}:local"
        self.podman("run", "--rm", "--network=none", "--no-healthcheck", "--user=0", *mounts, image, "true")
        for name, kind in volumes.items():
            if kind != _MEMORY:
                folder = self._folder_of(name)
                os.chown(folder, 0, USER)
                folder.chmod(0o2775 if kind == _HOME else 0o2777)

    def _give_secret(self, secret: dict[str, Any]) -> None:
        folder = self._folder_of(secret["secretName"])
        for path in (folder, *folder.iterdir()):
            os.chown(path, 0, USER)
            path.chmod(0o2770 if path.is_dir() else secret["defaultMode"])

    def _folder_of(self, volume: str) -> Path:
        return Path(self.podman("volume", "inspect", "--format={{.Mountpoint}}", volume).strip())


def _own_volumes(deployment: dict[str, Any]) -> dict[str, str]:
    """The kinds of its emptyDirs, which are renamed: podman takes those of one name for one, whichever pod they are in."""
    pod = deployment["spec"]["template"]["spec"]
    found, names = {}, {}
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            names[volume["name"]] = volume["name"] = f"{deployment['metadata']['name']}-{volume['name']}"
            found[volume["name"]] = _MEMORY if "medium" in volume["emptyDir"] else _FOLDER
    for mount in (mount for each in pod["containers"] for mount in each["volumeMounts"]):
        mount["name"] = names.get(mount["name"], mount["name"])
    return found
