"""What can be wrong with Triton."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError, RemoteError, unmark
from bioengine_contract.triton_text import plain_error, process_died, text_of


class TritonUnavailable(BioEngineError):
    code = "inference_server_unavailable"
    status = 503

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"The inference server did not answer ({reason}). It is being restarted if it belongs to this BioEngine: "
            "try again in a few seconds. If it lasts, ask the server's admin to look at its log."
        )


class NoAnswer(TritonUnavailable):
    """Of an operation of the model runner that hangs."""

    code = "inference_server_hangs"

    def __init__(self, operation: str, waited: float) -> None:
        super().__init__(f"its model runner did not {operation} within {waited:.0f} s")


class TritonError(BioEngineError):
    """Triton answered a request with an error.

    Args:
        text: what it says.
        status: the HTTP status.
    """

    code = "inference_failed"

    def __init__(self, text: str, status: int) -> None:
        self._marked = text
        self.text = text_of(text)
        super().__init__(str(self.own_error or plain_error(self.text)))
        self.status = status  # type: ignore[misc]  # of this one alone
        self.process_died = process_died(self.text)
        """Whether a process of the model has ended, which Triton does not start again."""

    @property
    def is_of_request(self) -> bool:
        """Whether the request was wrong: whoever sends it again gets the same answer, and nothing is to be repaired."""
        return 400 <= self.status < 500 and not self.process_died

    @property
    def own_error(self) -> RemoteError | None:
        """The model runner's own error, where it is one; a new one each time, as it may be raised because of this one."""
        return unmark(self._marked)
