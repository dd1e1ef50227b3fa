"""What the dispatcher knows of one Triton model on a worker."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from bioengine_contract.triton_model import TritonModel

from bioengine_server.dispatch.gate import Gate
from bioengine_server.workers.memory import Memory
from bioengine_server.workers.worker import Opened


@dataclass
class ModelState:
    """What is known of a Triton model on a worker."""

    base_name: str = ""
    """Of the Triton model, whichever card it is on."""
    fingerprint: str = ""
    """Of the package that it was loaded from."""
    opened: Opened | None = None
    """None: it is not loaded, as far as this server knows."""
    is_found: bool = False
    """Whether it was found on the worker: loaded by an earlier server, say. The next request has it opened as if it were not."""
    generation: int = 0
    """Counts its loads."""
    failures: int = 0
    """How often in a row it could not be loaded."""
    failure: tuple[str, str] | None = None
    """Why its last load failed, as message and code: an exception would keep the images of all who got it."""
    changed: float = 0.0
    """When it was loaded, or failed to be, on the monotonic clock."""
    load_seconds: float = 0.0
    """How long its last load has taken."""
    last_use: float = 0.0
    ended: int = -1
    """The generation whose process we have ended ourselves."""
    at_rest: Memory = Memory()
    """What it held when it was loaded last."""
    memory: Memory = Memory()
    """What it holds, by the last report; while it is loaded, what it will hold."""
    gate: Gate = field(default_factory=Gate, repr=False)
    """Each of its requests is inside, from before the load to the end of the run."""
    loading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def is_loaded_from(self, model: TritonModel) -> bool:
        return self.opened is not None and self.fingerprint == model.package.fingerprint

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded, and no request wants it."""
        return (self.opened is not None or self.is_found) and not self.gate.inside and not self.loading.locked()

    def idle_for(self) -> float:
        """Seconds since its last use."""
        return time.monotonic() - max(self.last_use, self.changed)
