"""Open a package's weights with bioimageio.core: weights that work and are fast, with the device on which they really compute.

If the client does not name a format, formats are tried until one works: first on a card, if NVIDIA's driver reports one, then
on the CPU; on each device ONNX, TorchScript, PyTorch state dict. On the CPU, ONNX Runtime is about twice as fast as torch. On a
card, a short measurement decides between the two. An attempt for the card has failed if the weights compute on the CPU instead,
or if they open but cannot run.
"""

from __future__ import annotations

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
from bioengine_runner.precision import opening_torch
from bioengine_runner.reasons import in_short
from bioengine_runner.rundir import Boot
from bioengine_runner.signature import Signature
from bioengine_runner.tiling.memory import CardMemory, DeviceMemory, HostMemory
from bioengine_runner.trial import fastest, is_cheap, prove
from bioengine_runner.verify import verify_weights

logger = logging.getLogger(__name__)

# The formats that are compared on a card, to use the faster one.
_COMPARED = ("onnx", "torchscript")

Description = v0_4.ModelDescr | v0_5.ModelDescr


def open_weights(package: Package, description: Description, weight_formats: Sequence[str], boot: Boot) -> Opened:
    """Open the weights of one of `weight_formats`.

    If none of them work, raises NoWeightsWork with the reason for each attempt, or the WeightsError of the only attempt.
    """
    opening = _Opening(package, description, boot, has_others=len(weight_formats) > 1)
    for device, formats in by_device(weight_formats, boot.accelerator):
        if found := opening.on(device, formats):
            found.memory.opened()
            found.notes[:0] = [f"precision: {boot.precision}"] if found.is_on_card else []
            found.notes += opening.failures(found)
            told = found.details.replace("\n", "; ")
            logger.info("%s: %s weights on the device %s (%s)", package.id, found.weight_format, found.device, told)
            return found
    raise opening.failure(was_chosen=list(weight_formats) != usable_weights(package.manifest, boot.trusted))


def by_device(weight_formats: Sequence[str], accelerator: str) -> list[tuple[str, list[str]]]:
    """What to try, in this order: pairs of `cuda` or `cpu`, and formats.

    Args:
        weight_formats: the formats that may be opened.
        accelerator: `cpu`, `cuda`, or `auto`: a card where there is one, else the CPU.
    """
    devices = {"cpu": ["cpu"], "cuda": ["cuda"]}.get(accelerator) or [*(["cuda"] if gpus() else []), "cpu"]
    formats = [name for name in RUNNABLE if name in weight_formats]
    return [(device, formats) for device in devices]


def device_name(weight_format: str, device: str) -> str:
    """bioimageio.core's name for the device `cuda` or `cpu`, which depends on the weight format."""
    names = {"cuda": CUDA, "cpu": CPU} if weight_format == "onnx" else {"cuda": "cuda:0", "cpu": "cpu"}
    return names[device]


class _Opening:
    """The attempts to open the weights of one package, and why attempts failed."""

    def __init__(self, package: Package, description: Description, boot: Boot, has_others: bool) -> None:
        """`has_others`: whether there are several formats to choose from."""
        self._package = package
        self._description = description
        self._boot = boot
        self._has_others = has_others
        self._signature = Signature(package.manifest)
        self._errors: dict[tuple[str, str], WeightsError] = {}

    def on(self, device: str, formats: Sequence[str]) -> Opened | None:
        """Open the weights to use on a device; None if none work there."""
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
            logger.warning("%s: used nevertheless, since no other weights work either", self._package.id)
            works = unproven[:1]
        return works[0] if works else None

    def failures(self, used: Opened) -> list[str]:
        """What was tried before these weights were found, and why it is not used."""
        device = "cuda" if used.is_on_card else "cpu"
        return [
            f"{name} on {tried} {error.reason}; used all the same, since nothing else works"
            if (name, tried) == (used.weight_format, device)
            else f"not used: {name} on {tried} {error.reason}"
            for (name, tried), error in self._errors.items()
        ]

    def failure(self, was_chosen: bool) -> Exception:
        """The error to raise when nothing works. `was_chosen`: whether the client named the format."""
        one, *others = self._errors.values()
        unusable = unusable_weights(self._package.manifest, self._boot.trusted)
        if all(isinstance(error, NoGpu) for error in self._errors.values()) or not (others or (unusable and not was_chosen)):
            return one
        has_devices = len({device for _, device in self._errors}) > 1
        reasons = {f"{name} on {device}" if has_devices else name: each.reason for (name, device), each in self._errors.items()}
        return NoWeightsWork(self._package.id, reasons if was_chosen else {**reasons, **unusable})

    def _attempt(self, weight_format: str, device: str, memory: DeviceMemory, unproven: list[Opened]) -> Iterator[Opened]:
        """Yield the weights if they work. Those that open on the CPU but fail on a made-up image are added to `unproven`."""
        try:
            verify_weights(self._package, weight_format)
            opened = self._open(weight_format, device, memory)
        except WeightsError as error:
            self._failed(weight_format, device, error)
            return
        try:
            # On the CPU, weights that open nearly always run: they are proven only if there is an alternative and it is cheap.
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
        error.__cause__ = error.__context__ = None  # their frames would keep the weights in memory

    def _is_to_compare(self, works: Opened, other: str) -> bool:
        """Whether weights of another format may be faster than some that work. For images of one size, they are about as fast."""
        is_comparable = works.weight_format in _COMPARED and other in _COMPARED
        return works.is_on_card and is_comparable and self._signature.has_free_size

    def _fastest(self, works: Sequence[Opened]) -> Opened:
        chosen, seconds = fastest(works)
        times = ", ".join(f"{name} {each * 1e3:.1f} ms" for name, each in seconds.items())
        chosen.notes.append(f"the fastest for three sizes in turn: {times}")
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
            # State dicts are opened with torch.load(weights_only=True): no code comes out of a weight file.
            with opening_sessions(package, precision) if weight_format == "onnx" else opening_torch(precision):
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
