"""What can happen to a request on its way to a worker."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError, RequestError
from bioengine_contract.package_errors import ModelNotFound

from bioengine_server.store.errors import StoreError


class RefusedArgument(BioEngineError):
    code = "bad_argument"

    def __init__(self, name: str, advice: str) -> None:
        super().__init__(f"The argument '{name}' is refused: {advice}")
        self.advice = advice


class CallerGone(BioEngineError):
    code = "caller_gone"

    def __init__(self, caller: object) -> None:
        super().__init__(f"Not run: {caller} went away while the request waited.")


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


class Fault(BioEngineError):
    """Anything else: a fault of the server's own. The log has all of it, and the client what finds it there."""

    code = "server_failed"
    status = 500

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"The server failed while it worked on this request. Ask its admin to look for task {task_id} in its log."
        )
