"""Open a package's weights with bioimageio.core: what works and is fast, and an honest answer where it computes.

Without a wish of the client's, formats are tried until one works: on a card first, where NVIDIA's driver has one, then on the
CPU; on each ONNX, TorchScript, PyTorch state dict. On the CPU ONNX Runtime is about twice as fast as torch. On a card a short
measurement decides between the two. What counts is the device that is really active, and that a run on it succeeds: an attempt
for the card that ends on the CPU, or opens and cannot run, has failed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from bioengine_contract.package import Package
from bioengine_contract.package_errors import NoWeightsWork
from bioengine_contract.trust import unusable_weights, usable_weights
from bioengine_contract.weights import RUNNABLE
from bioimageio.core.backends import create_model_adapter
from bioimageio.spec.model import v0_4, v0_5

from bioengine_runner.cards import problems
from bioengine_runner.errors import NoGpu, WeightsError, WeightsFail, WeightsNotOpened
from bioengine_runner.gpu import gpus
from bioengine_runner.onnx_sessions import CPU, CUDA, opening_sessions
from bioengine_runner.opened import Opened, active_device
from bioengine_runner.precision import set_torch
from bioengine_runner.reasons import in_short
from bioengine_runner.rundir import Boot
from bioengine_runner.signature import Signature
from bioengine_runner.tiling.memory import CardMemory, DeviceMemory, HostMemory
from bioengine_runner.trial import fastest, is_cheap, prove
from bioengine_runner.verify import verify_weights

logger = logging.getLogger(__name__)

# Formats of which more than one is opened on a card, to see which is faster there.
_COMPARED = ("onnx", "torchscript")

Description = v0_4.ModelDescr | v0_5.ModelDescr


def open_weights(package: Package, description: Description, weight_formats: Sequence[str], boot: Boot) -> Opened:
    """Open those of `weight_formats` that work, and are fast on a card.

    Raises the WeightsError of the one format that a client has asked for, or NoWeightsWork with the reasons of all.
    """
    opening = _Opening(package, description, boot, has_others=len(weight_formats) > 1)
    for device, formats in by_device(weight_formats, boot.accelerator):
        if found := opening.on(device, formats):
            found.memory.opened()
            found.details = "; ".join(filter(None, (boot.precision if found.is_on_card else "", found.details)))
            told = f" ({found.details})" if found.details else ""
            logger.info("%s: %s weights on the device %s%s", package.id, found.weight_format, found.device, told)
            return found
    raise opening.failure(was_chosen=list(weight_formats) != usable_weights(package.manifest, boot.trusted))


def by_device(weight_formats: Sequence[str], accelerator: str) -> list[tuple[str, list[str]]]:
    """What to try, in this order: (`cuda` or `cpu`, formats).

    Args:
        weight_formats: those that may be opened.
        accelerator: `cpu`, `cuda`, or `auto`: a card where there is one, else the CPU.
    """
    devices = {"cpu": ["cpu"], "cuda": ["cuda"]}.get(accelerator) or [*(["cuda"] if gpus() else []), "cpu"]
    formats = [name for name in RUNNABLE if name in weight_formats]
    return [(device, formats) for device in devices]


def device_name(weight_format: str, device: str) -> str:
    """What bioimageio.core calls `cuda` or `cpu` for weights of a format."""
    names = {"cuda": CUDA, "cpu": CPU} if weight_format == "onnx" else {"cuda": "cuda:0", "cpu": "cpu"}
    return names[device]


class _Opening:
    """The attempts to open one package, and why those failed that did."""

    def __init__(self, package: Package, description: Description, boot: Boot, has_others: bool) -> None:
        """`has_others`: whether there are weights of several formats to choose from."""
        self._package = package
        self._description = description
        self._boot = boot
        self._has_others = has_others
        self._signature = Signature(package.manifest)
        self._errors: dict[tuple[str, str], WeightsError] = {}

    def on(self, device: str, formats: Sequence[str]) -> Opened | None:
        """The weights that work on a device; None where none do."""
        memory: DeviceMemory = CardMemory(0) if device == "cuda" else HostMemory()
        unproven: list[Opened] = []
        works: list[Opened] = []
        for weight_format in formats:
            if works and not self._is_to_compare(works[0], weight_format):
                break
            with memory.counted():
                works += self._attempt(weight_format, device, memory, unproven)
        if len(works) > 1:
            with memory.counted():
                return self._fastest(works)
        if not works and unproven:
            logger.warning("%s: nothing else is left to try; maybe only a made-up image fails", self._package.id)
            works = unproven[:1]
        return works[0] if works else None

    def failure(self, was_chosen: bool) -> Exception:
        """`was_chosen`: whether a client has asked for the format."""
        one, *others = self._errors.values()
        unusable = unusable_weights(self._package.manifest, self._boot.trusted)
        if all(isinstance(error, NoGpu) for error in self._errors.values()) or not (others or (unusable and not was_chosen)):
            return one
        has_devices = len({device for _, device in self._errors}) > 1
        reasons = {f"{name} on {device}" if has_devices else name: each.reason for (name, device), each in self._errors.items()}
        return NoWeightsWork(self._package.id, reasons if was_chosen else {**reasons, **unusable})

    def _attempt(self, weight_format: str, device: str, memory: DeviceMemory, unproven: list[Opened]) -> Iterator[Opened]:
        """The weights, where they work. What opens on the CPU and fails on a made-up image is added to `unproven`."""
        try:
            verify_weights(self._package, weight_format)
            opened = self._open(weight_format, device, memory)
        except WeightsError as error:
            self._failed(weight_format, device, error)
            return
        try:
            # On the CPU what opens has always run, so far: there it matters where something else is left to try, and is cheap.
            if device == "cuda" or (self._has_others and is_cheap(opened)):
                prove(opened)
        except WeightsFail as error:
            self._failed(weight_format, device, error)
            opened.close() if device == "cuda" else unproven.append(opened)
        else:
            yield opened

    def _failed(self, weight_format: str, device: str, error: WeightsError) -> None:
        logger.warning("%s: not used on the device %s: %s", self._package.id, device, error, exc_info=error.__cause__)
        self._errors[weight_format, device] = error.with_traceback(None)
        error.__cause__ = error.__context__ = None  # whose frames have the weights

    def _is_to_compare(self, works: Opened, other: str) -> bool:
        """Whether weights of an `other` format may be faster where some work. With images of one size they are alike."""
        is_alike = not self._signature.has_free_size
        return works.is_on_card and works.weight_format in _COMPARED and other in _COMPARED and not is_alike

    def _fastest(self, works: Sequence[Opened]) -> Opened:
        chosen, seconds = fastest(works)
        times = ", ".join(f"{name} {each * 1e3:.1f} ms" for name, each in seconds.items())
        chosen.details = f"the fastest for three sizes in turn: {times}"
        for opened in works:
            if opened is not chosen:
                opened.close()
        return chosen

    def _open(self, weight_format: str, device: str, memory: DeviceMemory) -> Opened:
        package, precision = self._package, self._boot.precision
        try:
            if weight_format != "onnx":
                if device == "cuda" and not _torch_has_gpu():
                    raise NoGpu(package.id, weight_format, "cpu", problems())
                set_torch(precision)
            # State dicts are opened with torch.load(weights_only=True): no code comes out of a weight file.
            with opening_sessions(package, precision) if weight_format == "onnx" else contextlib.nullcontext():
                # Named explicitly: the default opens one session for each ONNX Runtime provider.
                adapter = create_model_adapter(
                    self._description,
                    devices=[device_name(weight_format, device)],
                    weight_format_priority_order=(weight_format,),  # type: ignore[arg-type]
                )
            if not (active := active_device(adapter)).startswith(device):
                raise NoGpu(package.id, weight_format, active, problems())
            return Opened(self._description, adapter, weight_format, self._signature, memory)
        except WeightsError:
            raise
        except Exception as error:
            # Whatever the framework, or code of the package, raises.
            source = package.manifest.weights[weight_format].source
            raise WeightsNotOpened(package.id, weight_format, source, _in_short(error, package)) from error


def _torch_has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _in_short(error: BaseException, package: Package) -> str:
    """What an error and its cause say, without the store's paths."""
    reasons = [in_short(each) for each in (error, error.__cause__) if each is not None]
    return ": ".join(reasons).replace(f"{package.folder}/", "")[:300]
