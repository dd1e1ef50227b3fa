"""What can happen to a request on its way to a worker."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError, RequestError
from bioengine_contract.package_errors import ModelNotFound

from bioengine_server.dispatch.budget import CARDS_SETTING
from bioengine_server.store.errors import StoreError
from bioengine_server.workers.memory import Memory


class RefusedArgument(BioEngineError):
    code = "bad_argument"

    def __init__(self, name: str, advice: str) -> None:
        super().__init__(f"The argument '{name}' is refused: {advice}")
        self.advice = advice


class CallerGone(BioEngineError):
    code = "caller_gone"

    def __init__(self, caller: object) -> None:
        super().__init__(f"The client {caller} disconnected, and its request was ended.")


class NoSuchJob(BioEngineError):
    code = "no_such_request"
    status = 404

    def __init__(self, task_id: object) -> None:
        super().__init__(
            f"You have no request {str(task_id)[:80]!r} in progress: it has ended, or its task_id is another one. "
            "A progress function gets the task_id of its request."
        )


class ModelTooLarge(RequestError):
    """A model that is not loaded, since it would need more memory than all models together may have."""

    code = "model_too_large"

    def __init__(self, model_id: str, need: Memory, limit: Memory, setting: str) -> None:
        on_card = setting == CARDS_SETTING
        needed, allowed = (need.cards, limit.cards) if on_card else (need.host, limit.host)
        super().__init__(
            f"Model '{model_id}' needs about {needed / 1e9:.2g} GB of {'the GPU' if on_card else 'memory'}, and all models "
            f"together may hold {allowed / 1e9:.2g} GB. Ask the server's admin to raise {setting}, or to keep fewer models "
            "loaded (BIOENGINE_PRELOAD)."
        )


class NoRoom(RequestError):
    """A model that cannot be loaded now, since those that are at work hold the memory."""

    code = "no_room"
    status = 503

    def __init__(self, model_id: str, waited: float, setting: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded within {waited:.0f} s: models at work hold the memory that {setting} "
            "allows. Send the request again later."
        )


class NoWorker(BioEngineError):
    code = "no_worker"
    status = 503

    def __init__(self, waited: float) -> None:
        super().__init__(
            f"No worker was ready within {waited:.0f} s, and this server runs models on its workers alone. Nothing is wrong with "
            "the request: send it again later, or ask the server's admin for a worker (`./bioengine workers` lists those that "
            "are joined)."
        )


class TwoWorkersLost(RequestError):
    code = "workers_lost"
    status = 503

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"Two workers went away, one after the other, while they worked on this request for model '{model_id}', so it is "
            "not tried on a third. Send a smaller image, or ask the server's admin to look at the workers' logs."
        )


class Stopping(BioEngineError):
    code = "stopping"
    status = 503

    def __init__(self) -> None:
        super().__init__("The server is being stopped. Nothing is wrong with the request: send it again when the server is back.")


class NoSuchModel(BioEngineError):
    """A model that neither the store, nor the collection, nor Triton has."""

    code = "model_not_found"
    status = 404


class ModelNotFetched(RequestError):
    """A model that is not stored, and why the collection did not help."""

    code = "model_not_found"
    status = 404

    def __init__(self, missing: ModelNotFound, reason: StoreError) -> None:
        super().__init__(f"{missing} {reason}")
