"""The figures for Prometheus: what is counted, for whom, and who may see them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from bioengine_contract.errors import RemoteError
from bioengine_contract.operations import Card, ModelProcess, Report
from bioengine_contract.version import VERSION
from bioengine_server.access import rules
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.control import metrics as metrics_module
from bioengine_server.control.callers import CallerNames
from bioengine_server.control.metrics import Metrics
from bioengine_server.control.overview import Overview
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.http.metrics_route import MetricsRoute
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.hypha.tokens import sign, use_secret
from bioengine_server.settings import Settings
from bioengine_server.workers.memory import Memory
from bioengine_server.workers.worker import ModelGone
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route

from tests.unit.server.test_dispatcher import Make, call, local, make, run

__all__ = ["make"]


class Figures:
    """The metrics of a server, read as Prometheus does."""

    def __init__(self, home: Path, dispatcher: Dispatcher | None) -> None:
        names = CallerNames(TokenRegistry(home))
        self.overview = Overview(Settings(home=home), names, lambda: None)
        self.metrics = Metrics(Settings(home=home), names, self.overview)
        if dispatcher is not None:
            self.overview.watch(dispatcher)

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a metric by those of its labels, which stand in the order of their names."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        samples = [sample for family in families for sample in family.samples]
        return {tuple(sample.labels.values()): sample.value for sample in samples if sample.name == name}

    def value(self, name: str) -> float:
        (value,) = self.of(name).values()
        return value


async def test_requests_are_counted_by_model_token_and_outcome(make: Make, tmp_path: Path) -> None:
    token = TokenRegistry(tmp_path).create("ada", 1)
    dispatcher, worker = make()
    figures = Figures(tmp_path, dispatcher)
    await run(dispatcher, by=call(token=token.id))
    worker.failures = [RemoteError("no", "odd_code")]
    await run(dispatcher)
    for id in ("missing", 'any "thing"\n', "../x"):
        await run(dispatcher, id)
    counts = figures.of("bioengine_requests_total")
    assert counts["shark", "done", "ada"] == 1 and counts["shark", "odd_code", ""] == 1
    assert counts["unknown", "model_not_found", ""] == 1 and counts["unknown", "bad_model_id", ""] == 2
    assert {model for model, _, _ in counts} == {"shark", "unknown"}
    stages = figures.of("bioengine_request_stage_seconds_count")
    assert stages["running",] == 2 and stages["queued",] == 2 and stages["loading",] == 1
    assert figures.of("bioengine_model_run_seconds_total").keys() == {("shark",)}


async def test_the_admins_own_models_are_counted_by_name(make: Make, tmp_path: Path) -> None:
    (tmp_path / "triton-models" / "own").mkdir(parents=True)
    dispatcher, _ = make()
    figures = Figures(tmp_path, dispatcher)

    async def work() -> None:
        pass

    for name in ("own", "other", "..", "own/.."):
        await dispatcher.other_model(name, call(), work)
    assert {model for model, _, _ in figures.of("bioengine_requests_total")} == {"own", "unknown"}


async def test_labels_have_a_bounded_number_of_values(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "_MAX_VALUES", 3)
    dispatcher, worker = make()
    figures = Figures(tmp_path, dispatcher)
    worker.failures = [RemoteError("a model's process says what it likes", f"code_{number}") for number in range(10)]
    for number in range(10):
        await run(dispatcher, by=call(token=f"{number}"))
    counts = figures.of("bioengine_requests_total")
    assert len({token for _, _, token in counts}) == len({code for _, code, _ in counts}) == 4 and sum(counts.values()) == 10
    assert counts["shark", "other", "other"] == 7


async def test_what_there_is_now(make: Make, tmp_path: Path) -> None:
    dispatcher, worker = make(model_concurrency=1)
    figures = Figures(tmp_path, dispatcher)
    worker.memory = 300
    await run(dispatcher)
    worker.gate = asyncio.Event()
    tasks = [asyncio.create_task(run(dispatcher)) for _ in range(3)]
    await asyncio.sleep(0.02)
    process = ModelProcess(state="open", memory=400, gpu_memory=50)
    report = Report(boot="1", dead_instances=[], models={"shark": process}, memory=1000, cards=[])
    report.cards.append(Card(index=0, name="H100", memory=80, free=30))
    local(dispatcher).learn(report)
    figures.overview.learn(report)
    assert (figures.value("bioengine_requests_running"), figures.value("bioengine_requests_waiting")) == (1, 2)
    assert figures.of("bioengine_model_memory_bytes") == {("shark", ""): 400}
    assert figures.of("bioengine_model_gpu_memory_bytes") == {("shark", ""): 50}
    assert figures.value("bioengine_models_memory_bytes") == 400 and figures.value("bioengine_models_memory_limit_bytes") == 750
    assert figures.of("bioengine_gpu_memory_bytes") == {("0", "H100"): 80}
    assert figures.of("bioengine_gpu_memory_free_bytes") == {("0", "H100"): 30}
    assert figures.of("bioengine_worker_ready") == {("",): 1} and figures.of("bioengine_worker_places") == {("",): 4}
    assert figures.of("bioengine_worker_requests_running") == {("",): 1}
    assert figures.value("bioengine_ready") == 1 and figures.of("bioengine_info") == {(VERSION,): 1}
    assert figures.value("process_resident_memory_bytes") > 1e6 and figures.value("process_cpu_seconds_total") > 0
    worker.gate.set()
    await asyncio.gather(*tasks)


async def test_loads_unloads_and_deaths_are_counted_once_each(make: Make, tmp_path: Path) -> None:
    dispatcher, worker = make()
    figures = Figures(tmp_path, dispatcher)
    worker.failures = [ModelGone("its process was killed")]
    assert (await run(dispatcher))["success"]
    gone = Report(boot="1", dead_instances=[], models={"shark": ModelProcess(state="ended")})
    for _ in range(2):
        local(dispatcher).learn(gone)
    await run(dispatcher)
    assert await local(dispatcher).unload("shark")
    worker.load_failures = [RemoteError("no", "weights_unusable")]
    await run(dispatcher)
    names = ("loads", "deaths", "unloads", "load_failures")
    assert [figures.value(f"bioengine_model_{name}_total") for name in names] == [3, 2, 1, 1]


async def test_what_was_ended_on_purpose_is_no_death(make: Make, tmp_path: Path) -> None:
    dispatcher, _ = make()
    figures = Figures(tmp_path, dispatcher)
    await run(dispatcher)
    await local(dispatcher).end("shark")
    local(dispatcher).learn(Report(boot="1", dead_instances=[], models={"shark": ModelProcess(state="ended")}))
    assert figures.value("bioengine_model_deaths_total") == 0 and local(dispatcher).held == Memory()


def test_a_server_without_models_has_figures_too(tmp_path: Path) -> None:
    figures = Figures(tmp_path, None)
    assert figures.value("bioengine_requests_running") == 0 and figures.of("bioengine_models_loaded") == {}


@contextlib.asynccontextmanager
async def client_of(home: Path, peer: str, **settings: Any) -> Any:
    registry = TokenRegistry(home)
    authenticator = Authenticator(Access(Settings(home=home, **settings), registry), registry)
    route = MetricsRoute(authenticator, Figures(home, None).metrics)
    app = Starlette(routes=[Route(route.path, route.answer)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 5)), base_url="http://server") as client:
        yield client


@pytest.mark.parametrize(
    ("peer", "settings", "headers", "expected"),
    [
        ("127.0.0.1", {}, {}, 200),
        ("::1", {"access": "open", "host": "0.0.0.0"}, {}, 200),
        ("127.0.0.1", {}, {"X-Forwarded-For": "10.0.0.9"}, 401),
        ("127.0.0.1", {"access": "open"}, {"Via": "1.1 proxy"}, 401),
        ("127.0.0.1", {"access": "open"}, {"Origin": "https://imjoy.io"}, 401),
        ("127.0.0.1", {"access": "token"}, {}, 401),
        ("127.0.0.1", {"host": "0.0.0.0"}, {}, 401),
        ("10.0.0.9", {"access": "open", "host": "0.0.0.0"}, {}, 401),
        ("172.18.0.1", {"listen": "0.0.0.0"}, {}, 200),
        ("172.18.0.5", {"listen": "0.0.0.0"}, {}, 401),
        ("172.18.0.1", {"listen": "0.0.0.0", "access": "open", "host": "0.0.0.0"}, {}, 401),
    ],
)
async def test_strangers_need_a_token(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    peer: str,
    settings: dict[str, Any],
    headers: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(rules, "gateway", lambda: "172.18.0.1")
    use_secret(new_secret())
    token = await asyncio.to_thread(sign, TokenRegistry(tmp_path).create("prometheus", 1))
    async with client_of(tmp_path, peer, **settings) as client:
        response = await client.get("/metrics", headers=headers)
        assert response.status_code == expected
        if expected == 200:
            assert response.headers["content-type"].startswith("text/plain; version=")
        else:
            assert response.json()["code"] == "token_needed" and "bioengine" not in response.text.split("needs")[0]
        with_token = await client.get("/metrics", headers={**headers, "Authorization": f"Bearer {token}"})
        assert with_token.status_code == 200 and "bioengine_info" in with_token.text
        wrong = await client.get("/metrics", headers={**headers, "Authorization": "Bearer x"})
        assert wrong.status_code == 401
