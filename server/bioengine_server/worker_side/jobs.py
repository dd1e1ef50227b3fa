"""What a worker does with a job: its own Triton does it, and the answer or the error goes back as a parcel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from bioengine_contract.errors import RequestError
from bioengine_contract.model_errors import ModelNotLoaded
from bioengine_contract.shared_tensors import SharedTensors
from bioengine_contract.triton_model import TritonModel

from bioengine_server.triton.errors import TritonError, TritonUnavailable
from bioengine_server.worker_side.copies import ModelCopies
from bioengine_server.workers.parcel import Parcel
from bioengine_server.workers.protocol import Failure, OpenedThere, Wanted
from bioengine_server.workers.worker import ModelGone, Worker

logger = logging.getLogger(__name__)

_ANSWER_HEADERS = ("content-type", "content-length", "inference-header-content-length")


class Followed:
    """A job, followed for the server (`workers.worker.Follower`)."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.at: tuple[int, int] | None = None
        """The tile that is worked on, of how many."""

    def tile(self, number: int, of: int) -> None:
        self.at = number, of


class Jobs:
    """Of one worker."""

    def __init__(self, worker: Worker, copies: ModelCopies, shared: SharedTensors) -> None:
        """
        Args:
            worker: does them.
            copies: its models.
            shared: where their large arrays are put as they arrive.
        """
        self._worker = worker
        self._copies = copies
        self.shared = shared
        self.is_away = False
        """Whether Triton did not answer the last job."""

    async def do(self, parcel: Parcel, followed: Followed) -> Parcel:
        """The answer to a job, whatever becomes of it."""
        try:
            answer = await self._done(parcel, followed)
            self.is_away = False
            return answer
        except ModelGone as error:
            return _failure("gone", error.reason)
        except TritonUnavailable as error:
            self.is_away = True
            return _failure("away", error.reason)
        except TritonError as error:
            return _failure("triton", error.text, status=error.status)
        except RequestError as error:
            return _failure("request", str(error), error.code)
        except Exception as error:
            logger.exception("A job failed")
            return _failure("away", f"a worker failed ({type(error).__name__}); its log says more")

    async def _done(self, parcel: Parcel, followed: Followed) -> Parcel:
        """Raises what the worker raises."""
        header, worker = parcel.header, self._worker
        operation = header.get("operation")
        if operation == "load":
            opened = await worker.load(await self._copies.get(Wanted.model_validate(header["model"])))
            return Parcel({"opened": OpenedThere.of(opened).model_dump()})
        if operation in ("unload", "end"):
            await (worker.unload if operation == "unload" else worker.end)(str(header["name"]))
            return Parcel({})
        if operation == "infer":
            outputs = await worker.infer(self._model(header), parcel.arrays, header["parameters"], followed)
            return Parcel({}, outputs)
        if operation == "forward":
            return await self._forwarded(self._model(header), header, parcel.body)
        raise ModelNotLoaded(str(header.get("model")), f"the worker knows no operation {str(operation)[:40]!r}")

    async def _forwarded(self, model: TritonModel, header: dict[str, Any], body: bytes | bytearray) -> Parcel:
        async def sent() -> AsyncIterator[bytes | bytearray]:
            yield body

        response = await self._worker.forward(model, str(header["version"]), sent, header["headers"])
        try:
            content = await response.read()
        finally:
            response.release()
        headers = {name: response.headers[name] for name in _ANSWER_HEADERS if name in response.headers}
        return Parcel({"status": response.status, "headers": headers}, body=content)

    def _model(self, header: dict[str, Any]) -> TritonModel:
        """The model of a run, which the server has had loaded before. Raises ModelGone."""
        model = self._copies.find(Wanted.model_validate(header["model"]))
        if model is None:
            raise ModelGone("the worker has another import of its package")
        return model


def _failure(kind: str, text: str, code: str = RequestError.code, status: int = 500) -> Parcel:
    failure = Failure.model_validate({"kind": kind, "text": text, "code": code, "status": status})
    return Parcel({"failure": failure.model_dump()})
