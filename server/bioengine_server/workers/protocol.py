"""What the server and a worker that has dialled in say to each other, over plain HTTP on the server's own port.

    POST /workers/<name>/join          Join -> Joined; from then on each request has the header INSTANCE
    POST /workers/<name>/beat          Beat -> Orders; each second, or the lease ends
    GET  /workers/<name>/take?lane=    waits; 200 with a parcel (`parcel.py`) that is to be worked on, or 204
    POST /workers/<name>/answer/<job>  the parcel that came of it
    POST /workers/<name>/leave         when all is done
    GET  /workers/models/<id>/<version>/<file>
                                       a file of a stored package

All connections go out from the worker, so that it needs no open port.
"""

from __future__ import annotations

from typing import Annotated, Literal

from bioengine_contract.model_errors import ModelNotLoaded
from bioengine_contract.operations import Report
from bioengine_contract.triton_model import TritonModel
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bioengine_server.workers.memory import Memory
from bioengine_server.workers.worker import Opened

INSTANCE = "x-bioengine-instance"
"""Header with what `Joined` has given: says which joining of a worker a request belongs to."""

LEASE = 3.0  # seconds after its last word for which a worker counts as there
BEAT_INTERVAL = 1.0  # seconds
TAKE_TIMEOUT = 10.0  # seconds that the server waits for something to do, before it answers 204

MAX_CLOCK_DIFFERENCE = 60.0  # seconds

Lane = Literal["runs", "orders"]
"""`runs`: images, as many at once as the worker has places. `orders`: loads, ends and the like, which are short or only wait."""
LANES: tuple[Lane, ...] = ("runs", "orders")

_Text = Annotated[str, StringConstraints(max_length=300)]


class Join(BaseModel):
    """A worker wants to work for the server."""

    model_config = ConfigDict(extra="forbid")

    version: _Text
    start: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
    """Made anew at each start of the worker's process."""
    host: _Text
    """The name of its machine."""
    time: float
    """Its clock, in seconds since 1970."""
    places: Annotated[int, Field(ge=1, le=256)] = 4
    problem: Annotated[str, StringConstraints(max_length=1000)] = ""
    """Why it cannot work: the server refuses it with this, so that both sides say it."""
    memory_limit: int = 0
    gpu_memory_limit: int = 0
    """What its models may hold, in bytes; 0: as on the server, most of what its machine has."""
    devices: list[int] = []
    """The numbers of the cards that they may use; empty: all."""


class Joined(BaseModel):
    """The server has taken a worker."""

    instance: str
    trusted: str
    """The server's BIOENGINE_TRUSTED_MODELS: trust is decided there alone."""


class Beat(BaseModel):
    """A worker lives."""

    report: Report | None = None
    """What lives in its Triton, as far as it knows."""
    not_ready: _Text = ""
    """Why nothing can run there now; empty: it can."""
    tiles: dict[str, tuple[int, int]] = {}
    """Of runs whose images go in tiles: which one is worked on, of how many."""
    in_hand: list[str] = []
    """The jobs that it has taken and not answered yet."""
    leaving: bool = False
    """Whether it takes nothing new."""


class Orders(BaseModel):
    """What the server wants of a worker beside its jobs."""

    stop: list[str] = []
    """Jobs whose results nobody wants any more."""
    drain: bool = False
    """Finish what is in hand, leave, and end."""


class Wanted(BaseModel):
    """A Triton model as the server has placed it."""

    package: str
    """Its key, `<id>/<version>`."""
    is_default: bool
    """Whether clients get this version by the id alone; the model's name follows from it."""
    name: str
    weight_formats: list[str]
    fingerprint: str
    card: int | None = None

    @classmethod
    def of(cls, model: TritonModel) -> Wanted:
        package = model.package
        return cls(
            package=str(package.key),
            is_default=package.is_default,
            name=model.name,
            weight_formats=list(model.weight_formats),
            fingerprint=package.fingerprint,
            card=model.card,
        )


class OpenedThere(BaseModel):
    """What a model's process on a worker has opened (`Opened`)."""

    weight_format: str
    device: str
    memory: int
    gpu_memory: int

    @classmethod
    def of(cls, opened: Opened) -> OpenedThere:
        memory = opened.memory
        return cls(weight_format=opened.weight_format, device=opened.device, memory=memory.host, gpu_memory=memory.cards)

    def opened(self) -> Opened:
        return Opened(self.weight_format, self.device, memory=Memory(self.memory, self.gpu_memory))


class Failure(BaseModel):
    """What went wrong with a job on a worker."""

    kind: Literal["request", "gone", "away", "triton"]
    """`request`: a RequestError. `gone`: ModelGone. `away`: TritonUnavailable. `triton`: TritonError."""
    text: str
    code: str = ModelNotLoaded.code
    status: int = 500
