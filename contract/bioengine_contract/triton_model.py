"""The Triton model of a package: its name, the weights that it may open, and its configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bioengine_contract.axes import BATCH
from bioengine_contract.ids import triton_name
from bioengine_contract.manifest import Manifest
from bioengine_contract.package import Package
from bioengine_contract.package_errors import NoWeightsWork, WeightsNotAvailable
from bioengine_contract.trust import check_trust, code_of, unusable_weights, usable_weights
from bioengine_contract.weights import RUNNABLE

# More samples than any request has: Triton refuses larger batches.
_ANY_BATCH = 1 << 24

RUNS_CODE = "runs_code"
"""Parameter of the model's configuration: code of its package runs, because the admin trusts it."""


@dataclass(frozen=True)
class TritonModel:
    """A package and the weights that its process may open. `weight_formats`: the process opens the first one that works.

    `name` is a pure function of id, version, weights and card.
    """

    name: str
    package: Package
    weight_formats: tuple[str, ...]
    card: int | None = None
    """The GPU that it computes on, where there are several to choose from."""

    def on_card(self, card: int) -> TritonModel:
        """The same model on one of several GPUs: a Triton model of its own."""
        return replace(self, name=name_on_card(self.name, card), card=card)

    @property
    def base_name(self) -> str:
        """Its name, whichever card it is on."""
        return self.name if self.card is None else base_name(self.name)

    @property
    def manifest(self) -> Manifest:
        return self.package.manifest


def name_on_card(name: str, card: int) -> str:
    """The name of a Triton model on one of several GPUs."""
    return f"{name}--gpu{card}"


def base_name(name: str) -> str:
    """The name of a Triton model, whichever GPU it is on."""
    return re.sub(r"--gpu\d+$", "", name)


def triton_model(package: Package, weight_format: object = None, trusted: frozenset[str] = frozenset()) -> TritonModel:
    """The Triton model for a package.

    Args:
        package: a package of the store.
        weight_format: the only format that may be opened, because the client asked for it; None: any that can be run.
        trusted: the entries of BIOENGINE_TRUSTED_MODELS.

    Raises PackageRunsCode, WeightsNotAvailable, NoWeightsWork.
    """
    manifest = package.manifest
    runnable = [name for name in RUNNABLE if name in manifest.weights]
    usable = formats = usable_weights(manifest, trusted)
    if isinstance(weight_format, str) and weight_format in runnable:
        check_trust(manifest, weight_format, trusted)
        formats = [weight_format]
    elif weight_format is not None:
        raise WeightsNotAvailable(manifest.id, weight_format, usable)
    elif not usable:
        if manifest.code and runnable:
            check_trust(manifest, runnable[0], trusted)
        raise NoWeightsWork(manifest.id, unusable_weights(manifest, trusted))
    name = triton_name(package.key, package.is_default, only=formats[0] if formats != usable else "")
    return TritonModel(name, package, tuple(formats))


def is_batched(manifest: Manifest) -> bool:
    """Whether Triton may pass several requests to the model at once: its batch axis is the first one and may have any size."""
    return all(spec.axes[0].type == BATCH and spec.axes[0].step > 0 for spec in manifest.inputs) and all(
        spec.axes[0].type == BATCH for spec in manifest.outputs
    )


def config_pbtxt(model: TritonModel, package_folder: str) -> str:
    """The content of the model's config.pbtxt. `package_folder`: where Triton's processes find the package."""
    parameters = {
        "package": package_folder,
        "weight_formats": ",".join(model.weight_formats),
        "fingerprint": model.package.fingerprint,
        **({} if model.card is None else {"card": str(model.card)}),
        **({RUNS_CODE: "1"} if any(code_of(model.manifest, name) for name in model.weight_formats) else {}),
    }
    return render_config(model.manifest.triton_config, parameters, is_batched(model.manifest))


def render_config(config: dict[str, Any], parameters: dict[str, str], batches: bool) -> str:
    """Triton's text form of a configuration.

    Args:
        config: the configuration in the manifest.
        parameters: for the model's process.
        batches: whether Triton may join several requests into a batch.
    """
    lines = [f"backend: {json.dumps(config['backend'])}", f"max_batch_size: {_ANY_BATCH if batches else 0}"]
    for kind in ("input", "output"):
        lines += _tensors(kind, config[kind], batches)
    if batches:
        # Without a delay: the requests that arrived while the model worked are passed to it together.
        lines.append("dynamic_batching { }")
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}")
    # KIND_CPU is about the Python backend's process; bioimageio.core chooses the device that a model computes on.
    lines.append("instance_group { count: 1 kind: KIND_CPU }")
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: Sequence[dict[str, Any]], batches: bool) -> list[str]:
    lines = []
    for tensor in tensors:
        # -1 allows any size: the model's process pads and cuts images. If Triton batches, the dims do not include the batch axis.
        dims = ", ".join(["-1"] * (len(tensor["dims"]) - batches))
        optional = "optional: true " if tensor.get("optional") else ""
        lines.append(
            f"{kind} {{ name: {json.dumps(tensor['name'])} data_type: {tensor['data_type']} dims: [ {dims} ] {optional}}}"
        )
    return lines
