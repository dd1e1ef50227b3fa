"""Figures for Prometheus: counted at the end of each request, and looked up when they are asked for.

Labels have a bounded number of values, whatever clients send: models are those of the store, codes and names the first hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bioengine_contract.errors import BioEngineError
from bioengine_contract.ids import is_triton_name
from bioengine_contract.store import resolve
from bioengine_contract.version import VERSION
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bioengine_server.control.callers import CallerNames
from bioengine_server.control.overview import Overview
from bioengine_server.dispatch.jobs import Job
from bioengine_server.settings import Settings

CONTENT_TYPE = CONTENT_TYPE_LATEST
STAGES = ("queued", "downloading", "converting", "loading", "running")
UNKNOWN = "unknown"
"""The label of all models that are asked for and not stored."""

_MAX_VALUES = 500  # of one label
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)

disable_created_metrics()  # the time of each counter's first increment: twice the lines, and nobody reads them


class _Bounded:
    """The values of one label: those that come first, and "other" for all that are too many."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._values and len(self._values) >= _MAX_VALUES:
            return "other"
        self._values.add(value)
        return value


class Metrics:
    """Of one server."""

    def __init__(self, settings: Settings, names: CallerNames, overview: Overview) -> None:
        """
        Args:
            settings: of the server.
            names: of its callers.
            overview: tells of requests that end, and of what there is now.
        """
        self._settings = settings
        self._names = names
        self._model_label, self._token_label, self._code_label = _Bounded(), _Bounded(), _Bounded()
        self.registry = registry = CollectorRegistry()
        Info("bioengine", "The server's version.", registry=registry).info({"version": VERSION})
        self._requests = Counter(
            "bioengine_requests",
            'Requests that have ended, by model, name of the token (empty: none), and outcome, "done" or the code of an error.',
            ("model", "token", "outcome"),
            registry=registry,
        )
        self._stages = Histogram(
            "bioengine_request_stage_seconds",
            "Seconds that requests have spent queued, downloading, converting, loading and running.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        for stage in STAGES:
            self._stages.labels(stage)  # there from the start
        self._run_seconds = Counter(
            "bioengine_model_run_seconds", "Seconds that requests have spent running, by model.", ("model",), registry=registry
        )
        registry.register(_Now(overview))
        ProcessCollector(registry=registry)
        overview.on_end(self._learn)

    def text(self) -> bytes:
        """All of them, in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)

    def _learn(self, job: Job) -> None:
        model = self._model_label(self._model(job.model))
        token, outcome = self._token_label(self._names.token(job.caller)), self._code_label(job.outcome)
        self._requests.labels(model, token, outcome).inc()
        for stage in STAGES:
            if stage in job.seconds:
                self._stages.labels(stage).observe(job.seconds[stage])
        if "running" in job.seconds:
            self._run_seconds.labels(model).inc(job.seconds["running"])

    def _model(self, asked: object) -> str:
        """The id of a stored model, or the name of one of the admin's own, that was asked for."""
        try:
            return resolve(self._settings.store, asked).id
        except (BioEngineError, OSError, ValueError):
            own = self._settings.triton_models
            return str(asked) if is_triton_name(asked) and (own / str(asked)).is_dir() else UNKNOWN


class _Now(Collector):
    """What there is at the time of being asked."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._worker_label = _Bounded()

    def describe(self) -> Iterable[Metric]:
        """None of them: the registry would collect them to learn their names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        overview = self._overview
        yield _gauge("bioengine_ready", "Whether the server is ready, as its health route says.", overview.reason is None)
        status = overview.status()
        requests, worker = status["requests"], status["worker"]
        yield _gauge("bioengine_requests_waiting", "Requests that wait for their turn.", requests["waiting"])
        yield _gauge("bioengine_requests_running", "Requests that hold a place.", requests["running"])
        yield _gauge("bioengine_requests_waiting_limit", "Requests that may wait.", requests["queue_size"])
        yield _gauge("bioengine_requests_running_limit", "Requests that may hold a place.", requests["concurrency"])
        if worker is None or overview.dispatcher is None:
            return
        models = status["models"]
        yield _gauge("bioengine_models_loaded", "Models that are loaded.", len(models))
        for name, key, where in (("memory", "memory", "the host"), ("gpu_memory", "gpu_memory", "all GPUs")):
            of_model = GaugeMetricFamily(
                f"bioengine_model_{name}_bytes", f"Memory of {where} that a loaded model holds.", labels=("model", "worker")
            )
            for model in models:
                of_model.add_metric((model["name"], self._worker_label(model["worker"])), model[key])
            yield of_model
            yield _gauge(f"bioengine_models_{name}_bytes", f"Memory of {where} that all models hold.", worker[key]["held"])
            yield _gauge(f"bioengine_models_{name}_limit_bytes", "What they may hold.", worker[key]["limit"])
        yield from _cards(worker["cards"])
        yield from _workers(overview.dispatcher.pool.describe(), self._worker_label)
        events = overview.dispatcher.pool.counts
        yield _counter("bioengine_model_loads", "Models that were loaded.", events["loads"])
        yield _counter("bioengine_model_load_failures", "Loads of models that failed.", events["failed_loads"])
        yield _counter("bioengine_model_unloads", "Models that were unloaded.", events["unloads"])
        yield _counter("bioengine_model_deaths", "Processes of models that have died by themselves.", events["deaths"])
        yield _counter("bioengine_triton_restarts", "Times that Triton was started again.", worker["restarts"])


def _cards(cards: list[dict[str, object]]) -> Iterator[Metric]:
    size = GaugeMetricFamily("bioengine_gpu_memory_bytes", "Memory that a GPU has.", labels=("gpu", "name"))
    free = GaugeMetricFamily("bioengine_gpu_memory_free_bytes", "Memory of a GPU that nobody holds.", labels=("gpu", "name"))
    for card in cards:
        labels = (str(card["index"]), str(card["name"])[:100])
        size.add_metric(labels, float(str(card["memory"])))
        free.add_metric(labels, float(str(card["free"])))
    yield size
    yield free


def _workers(workers: list[dict[str, Any]], label: Callable[[str], str]) -> Iterator[Metric]:
    """By name, which is empty for the server's own."""
    ready = GaugeMetricFamily("bioengine_worker_ready", "Whether requests go to a worker.", labels=("worker",))
    running = GaugeMetricFamily("bioengine_worker_requests_running", "Requests that a worker has.", labels=("worker",))
    places = GaugeMetricFamily(
        "bioengine_worker_places", "Requests that a worker takes before others go elsewhere.", labels=("worker",)
    )
    for worker in workers:
        name = label(worker["name"])
        ready.add_metric((name,), float(worker["state"] == "ready"))
        running.add_metric((name,), worker["in_flight"])
        places.add_metric((name,), worker["places"])
    yield from (ready, running, places)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))
