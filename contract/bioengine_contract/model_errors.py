"""What can happen to a model's process: while it is loaded, and while it works."""

from __future__ import annotations

from bioengine_contract.errors import RequestError


class ModelNotOpened(RequestError):
    code = "model_not_opened"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' cannot be opened: {reason}. Ask the server's admin, whose log has more and who can test the "
            f"package with `./bioengine models test {model_id}`, or the model's authors to mend it."
        )


class ModelNotLoaded(RequestError):
    """`reason`: what is known of it, as the second half of a sentence."""

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
            f"Model '{model_id}' could not be loaded: the model runner's environment is gone. Ask the server's admin to end the "
            "server and to start it with `./bioengine up`, which builds the environment again."
        )


class RunDirUnusable(RequestError):
    code = "run_dir_unusable"

    def __init__(self, model_id: str, reason: object) -> None:
        super().__init__(
            f"Model '{model_id}' could not be loaded: the server's run dir cannot be written ({reason}). Ask the server's admin "
            "to make room there, or to start the server again if it was removed; /health/readiness says what is missing."
        )


class OtherPackage(RequestError):
    """The process of a model is that of another package, or of another import of it; the model is then loaded again."""

    code = "other_package"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' was imported again meanwhile. Send the request again.")


class ModelFailed(RequestError):
    code = "model_failed"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' could not process these inputs: {reason}. "
            "Check the inputs against the model's documentation; its test input shows what it expects."
        )


class ModelProcessDied(RequestError):
    """`reason`: what is known of its end, as the second half of a sentence."""

    code = "model_process_died"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' ended while it worked on this request, and again on a second try: {reason}. "
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
    """Of a request whose result nobody wants any more. `by`: whoever has cancelled it, such as "its caller"."""

    code = "cancelled"

    def __init__(self, by: str) -> None:
        super().__init__(f"The request was cancelled by {by}.")
