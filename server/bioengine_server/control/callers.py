"""Callers by the names of their tokens, which the admin alone sees, and what came of their requests."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from bioengine_contract.errors import BioEngineError

from bioengine_server.access.caller import Caller
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.dispatch.jobs import DONE, Job

_MAX_CALLERS = 500
_MAX_ERRORS = 20


class CallerNames:
    """Who calls, by name."""

    def __init__(self, registry: TokenRegistry | None) -> None:
        """`registry`: of the tokens; None where another server has checked them, and knows their names."""
        self._registry = registry

    def token(self, caller: Caller) -> str:
        """The name of a caller's token, or its id where the name is not known; empty without a token."""
        if not caller.token or self._registry is None:
            return caller.token
        try:
            token = self._registry.find(caller.token)
        except BioEngineError:
            token = None
        return token.name if token else caller.token


@dataclass
class _Counts:
    requests: int = 0
    failed: int = 0
    last: float = 0.0


class Ended:
    """What came of requests since the server started."""

    def __init__(self, names: CallerNames) -> None:
        self._names = names
        self._counts: dict[str, _Counts] = {}
        self._errors: deque[dict[str, Any]] = deque(maxlen=_MAX_ERRORS)

    def learn(self, job: Job) -> None:
        """Take a request that has ended."""
        token = self._names.token(job.caller)
        counts = self._counts.pop(token, None) or _Counts()
        self._counts[token] = counts  # the last one asked last
        if len(self._counts) > _MAX_CALLERS:
            del self._counts[next(iter(self._counts))]
        counts.requests += 1
        counts.last = time.time()
        if job.outcome != DONE:
            counts.failed += 1
            what = {"token": token, "model": str(job.model)[:200], "code": job.outcome}
            if not job.is_admitted:
                self._forget_refusals(what)
            self._errors.append(
                {"time": time.time(), "task_id": job.task_id if job.is_admitted else "", **what, "error": job.reason}
            )

    def _forget_refusals(self, what: dict[str, str]) -> None:
        """Forget those that were refused alike: whoever sends a thousand must not hide all other errors."""
        alike = [error for error in self._errors if not error["task_id"] and what.items() <= error.items()]
        for error in alike:
            self._errors.remove(error)

    def errors(self) -> list[dict[str, Any]]:
        """The last requests that failed, the newest first: `time` (Unix), `task_id`, `token`, `model`, `code`, `error`.

        Those that were refused have no `task_id`, and of those that were refused alike there is only the last one.
        """
        return list(reversed(self._errors))

    def callers(self, under_way: list[Job]) -> list[dict[str, Any]]:
        """Who has asked for something: `token` (its name, empty without one), `requests` that have ended, how many of them
        `failed`, `under_way` now, and the `last` end (Unix time, None: none yet); who asked last comes first."""
        now = [self._names.token(job.caller) for job in under_way]
        new = [token for token in dict.fromkeys(now) if token not in self._counts]
        found = [(token, _Counts()) for token in new] + list(reversed(self._counts.items()))
        return [
            {
                "token": token,
                "requests": counts.requests,
                "failed": counts.failed,
                "under_way": now.count(token),
                "last": counts.last or None,
            }
            for token, counts in found
        ]
