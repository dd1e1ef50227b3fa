"""The Helm chart: rendered by Helm's own engine, and examined by Kubernetes' own schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from bioengine_contract.version import VERSION
from helm_python import Chart, HelmError, lint

from tests.stack.harness import ROOT
from tests.tiers import cases

CHART = ROOT / "deploy" / "helm" / "bioengine"

EVERYTHING: dict[str, Any] = {
    "image": {"registry": "registry.lab.example/imaging/", "tag": "0.2.0-cuda", "pullSecrets": [{"name": "registry"}]},
    "workerToken": {"existingSecret": "worker-token", "key": "worker"},
    "server": {
        "settings": {"BIOENGINE_QUEUE_SIZE": 512, "BIOENGINE_OFFLINE": True, "BIOENGINE_MAX_PACKAGE_SIZE": 21474836480},
        "persistence": {"storageClass": "fast"},
        "service": {"annotations": {"a": "b"}},
        "annotations": {"a": "b"},
        "nodeSelector": {"disk": "large"},
        "tolerations": [{"key": "lab", "operator": "Exists"}],
    },
    "ingress": {"enabled": True, "className": "nginx", "host": "bioengine.lab", "tlsSecret": "bioengine-tls"},
    "workers": {
        "gpus": 1,
        "runtimeClassName": "nvidia",
        "settings": {"BIOENGINE_PRECISION": "fast"},
        "resources": {"requests": {"cpu": 4}, "limits": {"memory": "32Gi"}},
        "store": {"existingClaim": "models"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
    },
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "tokenSecret": "metrics-token", "labels": {"release": "prometheus"}},
}
SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "openshift": {"user": None},
    "no workers": {"workers": {"replicas": 0, "podDisruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False}}},
    "own volume": {"server": {"persistence": {"existingClaim": "home"}}},
}
# Of operators that are installed on their own: Kubernetes has no schemas for them.
OPERATORS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor"}
VERSIONS = [version for version in dict.fromkeys(kubernetes_validate.utils.all_versions()) if version != "1.25.0"]


def rendered(values: Mapping[str, Any], name: str = "bioengine") -> list[dict[str, Any]]:
    """Everything that the chart makes of these values."""
    with Chart.load(CHART) as chart:
        files = chart.render(dict(values), name=name, namespace="lab")
    documents = [yaml.safe_load_all(text) for file, text in files.items() if file.endswith(".yaml")]
    return [document for file in documents for document in file if document]


def one(documents: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = [each for each in documents if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    return found


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each deployment, its pods' specification, and their container's."""
    for document in documents:
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            yield document, pod, container


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    found = {variable["name"]: variable["value"] for variable in container["env"]}
    assert len(found) == len(container["env"]), "a variable is there twice"
    return found


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_wrong(name: str) -> None:
    found = lint(CHART, SETS[name])
    assert not found["errors"] and {message["error"] for message in found["messages"]} <= {"icon is recommended"}, found


@pytest.mark.parametrize(
    ("version", "name"),
    cases(
        [*((version, "everything") for version in VERSIONS), *((VERSIONS[-1], name) for name in SETS if name != "everything")],
        [(VERSIONS[0], "everything"), (VERSIONS[-1], "everything")],
    ),
)
def test_kubernetes_knows_all_that_is_in_it(version: str, name: str) -> None:
    documents = rendered(SETS[name])
    assert len(documents) >= 4
    for document in documents:
        if document["kind"] not in OPERATORS:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_oldest_version_that_is_tested_is_the_oldest_that_is_promised() -> None:
    with Chart.load(CHART) as chart:
        assert chart.metadata["kubeVersion"] == ">=1.26.0-0" and VERSIONS[0].startswith("1.26.")
        assert chart.metadata["appVersion"] == chart.version == VERSION


@pytest.mark.parametrize(
    ("kind", "error"),
    [("Deployment", kubernetes_validate.ValidationError), ("Deploymnet", kubernetes_validate.utils.SchemaNotFoundError)],
)
def test_the_schemas_would_find_a_mistake(kind: str, error: type[Exception]) -> None:
    deployment = one(rendered({}), "Deployment", "bioengine-worker")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(error):
        kubernetes_validate.validate({**deployment, "kind": kind}, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"wokers": {}}, "additional properties 'wokers' not allowed"),
        ({"workers": {"replica": 2}}, "at '/workers': additional properties 'replica' not allowed"),
        ({"workers": {"replicas": -1}}, "at '/workers/replicas': minimum: got -1, want 0"),
        ({"workers": {"replicas": "two"}}, "at '/workers/replicas': got string, want integer"),
        ({"workers": {"sharedMemory": "4 GB"}}, "at '/workers/sharedMemory': '4 GB' does not match"),
        ({"workers": {"gpuResource": "gpu"}}, "at '/workers/gpuResource': 'gpu' does not match"),
        ({"workers": {"drainSeconds": 5}}, "at '/workers/drainSeconds': minimum: got 5, want 10"),
        ({"workers": {"networkPolicy": {"dns": []}}}, "at '/workers/networkPolicy/dns': minItems"),
        ({"user": 0}, "at '/user': minimum: got 0, want 1"),
        ({"image": {"tag": "a b"}}, "at '/image/tag': 'a b' does not match"),
        (
            {"image": {"pullPolicy": "Sometimes"}},
            "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        ({"server": {"publicUrl": "bioengine.lab"}}, "at '/server/publicUrl': 'bioengine.lab' does not match"),
        ({"server": {"settings": {"QUEUE_SIZE": 5}}}, "invalid propertyName 'QUEUE_SIZE'"),
        ({"server": {"settings": {"BIOENGINE_QUEUE_SIZE": [5]}}}, "at '/server/settings/BIOENGINE_QUEUE_SIZE': got array, want"),
        ({"server": {"service": {"port": 70000}}}, "at '/server/service/port': maximum: got 70,000, want 65,535"),
        ({"workerToken": {"existingSecret": "My Secret"}}, "at '/workerToken/existingSecret': 'My Secret' does not match"),
        ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.host: .* Set both"),
        ({"serviceMonitor": {"enabled": True}}, "serviceMonitor.enabled needs serviceMonitor.tokenSecret: .* Set both"),
        ({"autoscaling": {"enabled": True, "min": 5}}, "autoscaling.min is larger than autoscaling.max: .* Make it smaller"),
        ({"server": {"settings": {"BIOENGINE_HOME": "/x"}}}, "server.settings has BIOENGINE_HOME, which the chart sets itself"),
        ({"workers": {"settings": {"BIOENGINE_PLACES": 2}}}, "workers.settings has BIOENGINE_PLACES, .* Remove it"),
    ],
)
def test_values_that_cannot_be_are_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HelmError, match=sentence):
        rendered(values)


# Whose defaults the README has in words.
IN_WORDS = {"server.resources", "workers.resources", "ingress.annotations", "workers.networkPolicy.dns"}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and f"{prefix}{name}" not in IN_WORDS:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_the_readme_has_each_value_and_its_default() -> None:
    values = dict(flat(yaml.safe_load((CHART / "values.yaml").read_text())))
    rows = dict(re.findall(r"^\| `([\w.]+)` \|(?: (.+?))? \| \S.* \|$", (CHART / "README.md").read_text(), re.MULTILINE))
    assert {*rows} == {*values}
    for name, default in rows.items():
        value = values[name]
        if value in ("", {}, []):
            assert default == "", name
        elif name not in IN_WORDS:
            assert default == f"`{str(value).lower() if isinstance(value, bool) else value}`", name


@pytest.mark.parametrize("name", SETS)
def test_pods_are_as_confined_as_the_restricted_standard_asks_and_more(name: str) -> None:
    found = list(pods(rendered(SETS[name])))
    assert len(found) == 2
    for _, pod, container in found:
        outer, inner = pod["securityContext"], container["securityContext"]
        assert outer["runAsNonRoot"] and outer["seccompProfile"] == {"type": "RuntimeDefault"}
        if name != "openshift":
            # The same number: what others are in a volume's group would be no secret from them.
            assert outer["runAsUser"] == outer["runAsGroup"] == outer["fsGroup"] == 10001
        else:
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & {*outer}
        assert (
            inner["readOnlyRootFilesystem"]
            and not inner["allowPrivilegeEscalation"]
            and inner["capabilities"] == {"drop": ["ALL"]}
        )
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "else a service called bioengine sets BIOENGINE_PORT"
        assert not {"hostNetwork", "hostIPC", "hostPID"} & {*pod}
        assert not any("hostPath" in volume for volume in pod["volumes"])
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {*mounts.values()} == {volume["name"] for volume in pod["volumes"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert {"/tmp", "/run/bioengine", "/var/lib/bioengine"} <= {*mounts}, "what is written on a file system that is read-only"


def test_there_is_never_a_second_server() -> None:
    server = one(rendered({}), "Deployment", "bioengine-server")
    assert server["spec"]["replicas"] == 1 and server["spec"]["strategy"] == {"type": "Recreate"}
    container = server["spec"]["template"]["spec"]["containers"][0]
    assert environment(container)["BIOENGINE_TRITON"] == "workers"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/readiness"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/liveness"
    assert one(rendered({}), "PersistentVolumeClaim")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_worker_is_ready_when_it_has_joined_and_has_time_to_drain() -> None:
    worker = one(rendered({"workers": {"drainSeconds": 1800}}), "Deployment", "bioengine-worker")
    pod = worker["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["exec"]["command"] == ["test", "-e", "/run/bioengine/joined"]
    assert pod["terminationGracePeriodSeconds"] == 1800
    assert worker["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert environment(container)["BIOENGINE_SERVER_URL"] == "http://bioengine:9520"
    assert one(rendered({}), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_gpus_are_asked_for_only_where_there_are_to_be_some() -> None:
    worker = one(rendered({}), "Deployment", "bioengine-worker")["spec"]["template"]["spec"]["containers"][0]
    assert "limits" not in worker["resources"] and environment(worker)["BIOENGINE_ACCELERATOR"] == "cpu"
    pod = one(rendered(EVERYTHING), "Deployment", "bioengine-worker")["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "32Gi"} and pod["runtimeClassName"] == "nvidia"
    assert environment(worker)["BIOENGINE_ACCELERATOR"] == "cuda", "never on the CPU without a word"
    assert environment(worker)["BIOENGINE_STORE"] == "/var/lib/bioengine-store"


def test_workers_reach_the_server_and_the_name_service_alone() -> None:
    documents = rendered({})
    policy = one(documents, "NetworkPolicy")["spec"]
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each, *_ in pods(documents)}

    def selects(selector: dict[str, Any], name: str) -> bool:
        return selector["matchLabels"].items() <= labels[name].items()

    assert selects(policy["podSelector"], "bioengine-worker") and not selects(policy["podSelector"], "bioengine-server")
    assert {*policy["policyTypes"]} == {"Ingress", "Egress"} and policy["ingress"] == []
    server, dns = policy["egress"]
    assert selects(server["to"][0]["podSelector"], "bioengine-server") and server["ports"] == [{"protocol": "TCP", "port": 9520}]
    assert {port["port"] for port in dns["ports"]} == {53} and "namespaceSelector" in dns["to"][0]


def test_the_token_is_a_file_and_is_in_nothing_else() -> None:
    made = one(rendered({}), "Secret")
    assert len(made["data"]["token"]) >= 64
    assert one(rendered({}), "Secret")["data"] != made["data"], "a default that is the same for all would be known to all"
    documents = rendered(EVERYTHING)
    assert not [each for each in documents if each["kind"] == "Secret"]
    for _, pod, container in pods(documents):
        (volume,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert volume["secretName"] == "worker-token" and volume["items"] == [{"key": "worker", "path": "token"}]
        assert volume["defaultMode"] == 0o440
        assert environment(container)["BIOENGINE_WORKER_TOKEN_FILE"] == "/run/secrets/bioengine/token"


def test_the_server_knows_the_names_by_which_it_is_reached() -> None:
    server = environment(one(rendered(EVERYTHING), "Deployment", "bioengine-server")["spec"]["template"]["spec"]["containers"][0])
    hosts = server["BIOENGINE_ALLOW_HOSTS"].split(",")
    assert {"bioengine", "bioengine.lab.svc", "bioengine.lab"} <= {*hosts} and all(hosts)
    assert server["BIOENGINE_PUBLIC_URL"] == "https://bioengine.lab"
    assert server["BIOENGINE_MAX_PACKAGE_SIZE"] == "21474836480" and server["BIOENGINE_OFFLINE"] == "true"
    assert server["BIOENGINE_QUEUE_SIZE"] == "512"


def test_keda_scales_by_what_waits_and_runs() -> None:
    documents = rendered({**EVERYTHING, "workers": {"places": 8}})
    assert "replicas" not in one(documents, "Deployment", "bioengine-worker")["spec"], "else each upgrade would undo its work"
    scaled = one(documents, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "bioengine-worker" and scaled["minReplicaCount"] == 0
    assert scaled["advanced"]["scalingModifiers"] == {"formula": "waiting + running", "target": "8"}
    assert [trigger["name"] for trigger in scaled["triggers"]] == ["waiting", "running"]
    for trigger in scaled["triggers"]:
        assert trigger["metadata"]["url"] == "http://bioengine.lab.svc:9520/workers"
        assert trigger["authenticationRef"]["name"] == one(documents, "TriggerAuthentication")["metadata"]["name"]
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes texts alone"
    (secret,) = one(documents, "TriggerAuthentication")["spec"]["secretTargetRef"]
    assert secret == {"parameter": "token", "name": "worker-token", "key": "worker"}


def test_prometheus_has_a_token_of_its_own() -> None:
    (endpoint,) = one(rendered(EVERYTHING), "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "metrics-token", "key": "token"}
    labels = one(rendered(EVERYTHING), "Service")["metadata"]["labels"]
    assert one(rendered(EVERYTHING), "ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("release", "name"), [("bioengine", "bioengine"), ("lab", "lab-bioengine"), ("x" * 53, None)])
def test_two_releases_share_no_name(release: str, name: str | None) -> None:
    documents = rendered(EVERYTHING, release)
    names = {document["metadata"]["name"] for document in documents}
    assert all(len(each) <= 63 for each in names) and (name is None or name in names)
    assert not names & {document["metadata"]["name"] for document in rendered(EVERYTHING, "other")}


def test_images_are_those_of_the_compose_file() -> None:
    built = re.findall(r"image: (bioengine-\w+):", (ROOT / "docker-compose.yml").read_text())
    images = [container["image"] for *_, container in pods(rendered(EVERYTHING))]
    assert images == [f"registry.lab.example/imaging/bioengine-{part}:0.2.0-cuda" for part in ("server", "worker")]
    assert {"bioengine-server", "bioengine-worker"} <= {*built}


def test_files_of_the_chart_are_what_helm_expects() -> None:
    for file in ("Chart.yaml", "values.yaml", "values.schema.json", "README.md", "templates/NOTES.txt"):
        assert Path(CHART / file).is_file()


def test_the_values_that_the_docs_show_are_taken() -> None:
    shown = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown and not re.findall(r"^```yaml", "".join(page.read_text() for page in ROOT.glob("docs/[!k]*.md")), re.MULTILINE)
    for values in map(yaml.safe_load, shown):
        assert rendered(values) != rendered({}), values
        with pytest.raises(HelmError):
            rendered({f"{key}s": value for key, value in values.items()})
