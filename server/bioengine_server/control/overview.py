"""What a running server is doing, as plain data for `bioengine status` and `bioengine ps`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from bioengine_contract.ids import triton_name
from bioengine_contract.operations import Report
from bioengine_contract.package_errors import ModelNotFound
from bioengine_contract.store import resolve
from bioengine_contract.version import VERSION
from bioengine_contract.weights import RUNNABLE

from bioengine_server.access.caller import OWN_USER
from bioengine_server.control.callers import CallerNames, Ended
from bioengine_server.control.errors import KeptLoaded, ModelAtWork, NotLoaded
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.dispatch.errors import NoSuchJob
from bioengine_server.dispatch.jobs import Job
from bioengine_server.dispatch.probe import names_probe
from bioengine_server.settings import Settings
from bioengine_server.workers.errors import NoSuchWorker

ADMIN = "the server's admin"
MAX_DETAILS = 4000
"""Characters that a model's process may say of itself."""
SHOWN_INPUTS = 16
"""Of a request with more than any model has, so many are shown."""


class Overview:
    """Of one server."""

    def __init__(self, settings: Settings, names: CallerNames, reason: Callable[[], str | None]) -> None:
        """
        Args:
            settings: of the server.
            names: of its callers.
            reason: why it is not ready; None: it is.
        """
        self._settings = settings
        self._names = names
        self._reason = reason
        self._started = time.time()
        self._ended = Ended(names)
        self._on_end: list[Callable[[Job], None]] = [self._ended.learn]
        self.dispatcher: Dispatcher | None = None
        """None: this server runs no models."""
        self.report: Report | None = None
        """The worker's last one."""
        self.restarts = 0
        """How often the worker's Triton was another one than before."""

    def watch(self, dispatcher: Dispatcher) -> None:
        """Tell of the requests and models of a dispatcher."""
        self.dispatcher = dispatcher
        dispatcher.jobs.on_end(self._end)

    def on_end(self, tell: Callable[[Job], None]) -> None:
        """Have `tell` called with each request of a client that has ended. It must not raise."""
        self._on_end.append(tell)

    def _end(self, job: Job) -> None:
        if not _is_own(job):
            for tell in self._on_end:
                tell(job)

    def learn(self, report: Report) -> None:
        """Take what the worker says of itself."""
        self.restarts += self.report is not None and self.report.boot != report.boot
        self.report = report

    @property
    def reason(self) -> str | None:
        """Why the server is not ready; None: it is."""
        return self._reason()

    @property
    def jobs(self) -> list[Job]:
        """The requests of clients that are under way, the oldest first."""
        return [job for job in self.dispatcher.jobs if not _is_own(job)] if self.dispatcher else []

    def models(self) -> list[dict[str, Any]]:
        """The loaded models, but for the server's own (`LoadedModels.status`)."""
        models = self.dispatcher.pool.status() if self.dispatcher else []
        return [model for model in models if not names_probe(model["name"])]

    def status(self) -> dict[str, Any]:
        """All of `bioengine status`. Memory is in bytes, times are Unix times, durations seconds."""
        return {
            "version": VERSION,
            "ready": self.reason is None,
            "reason": self.reason,
            "started": self._started,
            "uptime": round(time.time() - self._started, 1),
            "url": self._settings.advertised_url,
            "home": str(self._settings.home),
            "process": os.getpid(),
            "worker": self._worker(),
            "models": self.models(),
            "requests": self._requests(),
            "callers": self._ended.callers(self.jobs),
            "errors": self._ended.errors(),
        }

    def requests(self) -> list[dict[str, Any]]:
        """All of `bioengine ps`: `details` are those of the state, such as `position` and `estimate`, or `tile` of `tiles`.

        For the state "cancelled", they are `why`.
        """
        return [
            {
                "task_id": job.task_id,
                "token": self._names.token(job.caller),
                "client": f"{job.caller.workspace}/{job.caller.client}"[:200],
                "model": str(job.model)[:200],
                "shapes": [list(shape) for shape in job.shapes[:SHOWN_INPUTS]],
                "size": job.size,
                "state": "cancelled" if job.stopped_by else job.state,
                "details": {"why": job.stopped_by} if job.stopped_by else job.details,
                "age": round(job.age, 1),
            }
            for job in self.jobs
        ]

    def workers(self) -> dict[str, Any]:
        """All of `bioengine workers` (`Dispatcher.workers`)."""
        return self.dispatcher.workers() if self.dispatcher else {"workers": [], "waiting": 0, "running": 0}

    def drain(self, name: str) -> None:
        """Have a worker finish what it has in hand, leave, and end. Raises NoSuchWorker."""
        if self.dispatcher is None:
            raise NoSuchWorker(name)
        self.dispatcher.pool.drain(name)

    def cancel(self, task_id: str) -> None:
        """Cancel a request, whoever's it is. Raises NoSuchJob."""
        if self.dispatcher is None:
            raise NoSuchJob(task_id)
        self.dispatcher.jobs.cancel(task_id, ADMIN)

    async def unload(self, model_id: str) -> list[str]:
        """Unload a model, with whichever weights it is loaded; returns its names in Triton.

        Args:
            model_id: its id, or its name in Triton as `status` lists it.

        Raises RequestError, NotLoaded, ModelAtWork, KeptLoaded.
        """
        models = self._loaded_as(model_id)
        if not models or self.dispatcher is None:
            raise NotLoaded(model_id)
        if any(model["base_name"] in self.dispatcher.pool.kept.always for model in models):
            raise KeptLoaded(model_id)
        if running := sum(model["running"] for model in models):
            raise ModelAtWork(model_id, running)
        names = sorted({model["name"] for model in models})
        for name in names:
            if not await self.dispatcher.pool.unload(name):
                raise ModelAtWork(model_id, 1)  # since just now
        return names

    def model(self, model_id: str) -> list[dict[str, Any]]:
        """The processes of a model that are open or have failed, with whichever weights, for `models show`.

        Of each: its `name` in Triton, `state` ("open" or "failed"), `weight_format`, `device`, `details` (how it computes and
        why, a fact on each line), and `reason` (why it has failed). The last two are those of the worker's last report.

        Raises RequestError.
        """
        loaded = {model["name"]: model for model in self._loaded_as(model_id)}
        reported = self.report.models if self.report else {}
        failed = {name for name in self._triton_names(model_id) & reported.keys() if reported[name].state == "failed"}
        return [
            {
                "name": name,
                "state": "failed" if name in failed else "open",
                "weight_format": loaded[name]["weight_format"] if name in loaded else "",
                "device": loaded[name]["device"] if name in loaded else "",
                "details": reported[name].details[:MAX_DETAILS] if name in reported else "",
                "reason": reported[name].reason[:MAX_DETAILS] if name in failed else "",
            }
            for name in sorted(loaded.keys() | failed)
        ]

    def _triton_names(self, model_id: str) -> set[str]:
        """The names that a model may have in Triton, one for each choice of weights. Raises RequestError."""
        package = resolve(self._settings.store, model_id)
        return {triton_name(package.key, package.is_default, only) for only in ("", *RUNNABLE)}

    def _loaded_as(self, model_id: str) -> list[dict[str, Any]]:
        """The loaded models of Triton that are meant. Raises RequestError."""
        models = self.models()
        try:
            names = self._triton_names(model_id)
        except ModelNotFound:
            if named := [model for model in models if model["name"] == model_id]:
                return named
            raise
        return [model for model in models if model["base_name"] in names]

    def _worker(self) -> dict[str, Any] | None:
        """Where models run: `triton` (embedded, or its URL), `restarts` of it, `memory` that models hold and may, `cards`."""
        if self.dispatcher is None:
            return None
        held = self.dispatcher.pool.held
        limit = self.dispatcher.pool.limit
        return {
            "triton": self._settings.triton,
            "restarts": self.restarts,
            "memory": {"held": held.host, "limit": limit.host, "machine": self.report.memory if self.report else 0},
            "gpu_memory": {"held": held.cards, "limit": limit.cards},
            "cards": [card.model_dump() for card in self.report.cards] if self.report else [],
        }

    def _requests(self) -> dict[str, int]:
        queue = self.dispatcher.queue if self.dispatcher else None
        settings = self._settings
        return {
            "waiting": queue.waiting if queue else 0,
            "running": queue.running if queue else 0,
            "concurrency": settings.concurrency,
            "queue_size": settings.queue_size,
        }


def _is_own(job: Job) -> bool:
    """Whether it is the server's own, such as the readiness probe."""
    return job.caller.user == OWN_USER
