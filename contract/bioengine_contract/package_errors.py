"""Errors of the package that a request names, found before any of its files are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bioengine_contract.errors import RequestError, shorten
from bioengine_contract.nearest import did_you_mean


class ModelNotFound(RequestError):
    code = "model_not_found"
    status = 404

    def __init__(self, model_id: str, known: Sequence[str]) -> None:
        self.model_id = model_id
        have = f"It has: {', '.join(known)}." if known else "Its store is empty."
        super().__init__(
            f"No model {shorten(model_id)} on this server.{did_you_mean(model_id, known)} {have} "
            "Check the spelling, or ask the server's admin to import it with `./bioengine models import`."
        )


class PackageUnreadable(RequestError):
    code = "package_unreadable"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"The stored package of model '{model_id}' cannot be read: {reason}. "
            "Ask the server's admin to import it again with `./bioengine models import`."
        )


class PackageRunsCode(RequestError):
    code = "package_not_trusted"

    def __init__(self, model_id: str, code: Sequence[str], other_content: bool) -> None:
        trusted = "trusted it only with its earlier content, before it was imported again" if other_content else "not trusted it"
        super().__init__(
            f"Model '{model_id}' contains Python code of its own ({'; '.join(code)}), and this server's admin has {trusted}. "
            f"Ask the admin to look at the code and, to trust it, to run `./bioengine models show {model_id}` and add the entry "
            "that it prints to BIOENGINE_TRUSTED_MODELS; or use a model with ONNX or TorchScript weights and standard processing."
        )


class WeightsNotAvailable(RequestError):
    code = "weights_not_available"

    def __init__(self, model_id: str, wanted: object, usable: Sequence[str]) -> None:
        super().__init__(
            f"Model '{model_id}' has no weights in the format {shorten(wanted)} that this server runs. "
            + (
                f"It can be run with weight_format {' or '.join(repr(name) for name in usable)}; leave it out for the fastest."
                if usable
                else "Leave weight_format out: the error then says, for each of its formats, why it cannot be run."
            )
        )


class NoWeightsWork(RequestError):
    """`reasons`: for each format of the package's weights, why it cannot be run."""

    code = "no_usable_weights"

    def __init__(self, model_id: str, reasons: Mapping[str, str]) -> None:
        super().__init__(
            f"None of the weights of model '{model_id}' can be run on this server: "
            f"{'; '.join(f'{name}: {reason}' for name, reason in reasons.items()) or 'it has none'}. "
            "Expected ONNX or TorchScript weights that can be opened. Ask the server's admin to look at the server's log, and to "
            "import the model again with `./bioengine models import`; or ask the model's authors for such weights."
        )
