"""Errors of a model's process, while the model is loaded and while it runs."""

from __future__ import annotations

from collections.abc import Mapping

from bioengine_contract.errors import RequestError


class ModelNotOpened(RequestError):
    code = "model_not_opened"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' cannot be opened: {reason}. Ask the server's admin to look at the server's log, and to "
            f"test the package with `./bioengine models test {model_id}`; or ask the model's authors to correct the package."
        )


class ModelNotLoaded(RequestError):
    """`reason`: what is known about the cause, as the second half of a sentence."""

    code = "model_not_loaded"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded: {reason}. "
            "Try again in a minute, or ask the server's admin to look at its log."
        )


class EnvironmentGone(RequestError):
    code = "environment_gone"

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded: the model runner's Python environment no longer exists. Ask the server's "
            "admin to stop the server and to start it with `./bioengine up`, which builds the environment again."
        )


class RunDirUnusable(RequestError):
    code = "run_dir_unusable"

    def __init__(self, model_id: str, reason: object) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded: the server's run dir cannot be written ({reason}). Ask the server's admin "
            "to free space there, or to restart the server if the folder was removed; /health/readiness says what is missing."
        )


class OtherPackage(RequestError):
    """A model's process has loaded another package, or another import of the same package; the model is then loaded again."""

    code = "other_package"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' was imported again while this request was waiting. Send the request again.")


class ModelFailed(RequestError):
    code = "model_failed"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not process these inputs: {reason}. "
            "Check the inputs against the model's documentation; its test input shows what it expects."
        )


class TooLittleMemory(RequestError):
    """There is not enough memory for an image."""

    code = "too_little_memory"
    status = 413

    def __init__(
        self,
        model_id: str,
        device: str,
        pixels: int,
        needs: float | None,
        free: float,
        tile: Mapping[str, int],
        has_asked_for_tiles: bool,
    ) -> None:
        """
        Args:
            model_id, device: the model, and the device on which it computes.
            pixels: the number of pixels that would go through the model at once.
            needs, free: the bytes of the device's memory that are needed and free; `needs` is None if it is not known.
            tile: tile sizes that would work; empty if there are none.
            has_asked_for_tiles: whether the client has chosen the size of the tiles.
        """
        what = "is not enough" if needs is None else f"of about {_gigabytes(needs)} would be needed"
        remedy = "It cannot be cut into smaller tiles: send a smaller image, or fewer samples at a time"
        if tile:
            remedy = f"Send tile={dict(tile)}" + (", or leave `tile` out" if has_asked_for_tiles else "")
        super().__init__(
            f"The memory of {'the card' if device.startswith('cuda') else 'the machine'} ({device}) {what} for model "
            f"'{model_id}' to work on {pixels:,} pixels at once: {_gigabytes(free)} are free. {remedy}; or ask the server's "
            "admin to make room there, such as by unloading other models."
        )


class ModelProcessDied(RequestError):
    """`reason`: what is known about how the process ended, as the second half of a sentence."""

    code = "model_process_died"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"The process of model '{model_id}' ended while it worked on this request, and again on a second try: {reason}. "
            "Send a smaller image, or ask the server's admin to look at its log."
        )


class RunTookTooLong(RequestError):
    code = "run_took_too_long"
    status = 504

    def __init__(self, model_id: str, limit: float) -> None:
        super().__init__(
            f"Model '{model_id}' took longer than this server allows ({limit:g} s), and its run was ended. "
            "Send a smaller image, or ask the server's admin to raise BIOENGINE_RUN_TIMEOUT."
        )


class Cancelled(RequestError):
    """The request was cancelled. `by`: who has cancelled it, such as "its caller"."""

    code = "cancelled"

    def __init__(self, by: str) -> None:
        super().__init__(f"The request was cancelled by {by}.")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
