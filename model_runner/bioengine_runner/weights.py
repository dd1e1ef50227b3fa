"""Open a package's weights with bioimageio.core: the fastest that can be opened, and an honest answer where they run.

Without a wish of the client's, formats are tried in this order until one can be opened: on a GPU first, where NVIDIA's
driver has one, then on the CPU; on each ONNX, TorchScript, PyTorch state dict (ONNX Runtime is about twice as fast as torch
on a CPU). What counts is the device that is really active: an attempt for the GPU that ends on the CPU has failed.
Not tried on a GPU yet.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bioengine_contract.package import Package
from bioengine_contract.package_errors import NoWeightsWork
from bioengine_contract.trust import unusable_weights, usable_weights
from bioengine_contract.weights import RUNNABLE
from bioimageio.core import PredictionPipeline, create_prediction_pipeline
from bioimageio.core.backends import create_model_adapter
from bioimageio.core.proc_ops import CustomProcessing
from bioimageio.spec.model import v0_4, v0_5

from bioengine_runner.errors import NoGpu, WeightsError, WeightsNotOpened
from bioengine_runner.foreign import bioimageio_core
from bioengine_runner.foreign.bioimageio_core import ModelAdapter
from bioengine_runner.gpu import gpus
from bioengine_runner.reasons import in_short
from bioengine_runner.rundir import Boot
from bioengine_runner.verify import verify_weights

logger = logging.getLogger(__name__)

_ONNX_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_TORCH_DEVICES = {"cuda": "cuda:0", "cpu": "cpu"}


@dataclass(frozen=True)
class Opened:
    """Weights in memory. `device`: where they compute, `cpu` or `cuda:0`, as the framework says itself."""

    description: v0_4.ModelDescr | v0_5.ModelDescr
    adapter: ModelAdapter
    weight_format: str
    device: str

    def pipeline(self) -> PredictionPipeline:
        """A pipeline for one request, made in a fraction of a millisecond.

        bioimageio.core 0.11 gathers statistics of datasets in it: in one for all, they would be of other users' images, too.
        """
        pipeline = create_prediction_pipeline(self.description, model_adapter=self.adapter)
        _give_code_whole_images(pipeline)
        return pipeline


def open_weights(
    package: Package, description: v0_4.ModelDescr | v0_5.ModelDescr, weight_formats: Sequence[str], boot: Boot
) -> Opened:
    """Open the first of `weight_formats` that can be opened.

    Raises the WeightsError of the one format that a client has asked for, or NoWeightsWork with the reasons of all.
    """
    errors: dict[str, WeightsError] = {}
    for weight_format, device in attempts(weight_formats, boot.accelerator):
        try:
            verify_weights(package, weight_format)
            opened = _open(package, description, weight_format, device)
        except WeightsError as error:
            logger.warning("%s: not opened on the device %s: %s", package.id, device, error, exc_info=error.__cause__)
            errors[weight_format] = error
        else:
            logger.info("%s: %s weights on the device %s", package.id, weight_format, opened.device)
            return opened
    one, *others = errors.values()
    unusable = unusable_weights(package.manifest, boot.trusted)
    was_chosen = list(weight_formats) != usable_weights(package.manifest, boot.trusted)
    if was_chosen or not (others or unusable) or all(isinstance(error, NoGpu) for error in errors.values()):
        raise one
    raise NoWeightsWork(package.id, {**{name: error.reason for name, error in errors.items()}, **unusable})


def attempts(weight_formats: Sequence[str], accelerator: str) -> list[tuple[str, str]]:
    """What to try, in this order: (weights format, `cuda` or `cpu`).

    Args:
        weight_formats: those that may be opened.
        accelerator: `cpu`, `cuda`, or `auto`: a GPU where there is one, else the CPU.
    """
    devices = {"cpu": ["cpu"], "cuda": ["cuda"]}.get(accelerator) or [*(["cuda"] if gpus() else []), "cpu"]
    return [(name, device) for device in devices for name in RUNNABLE if name in weight_formats]


def active_device(adapter: ModelAdapter) -> str:
    """Where an adapter of bioimageio.core 0.11 computes, as its framework says: `cpu` or `cuda:0`."""
    device, model = bioimageio_core.framework_model(adapter)
    if hasattr(model, "get_providers"):
        # An ONNX Runtime session: its providers in their order, and without those that did not start.
        return _TORCH_DEVICES["cuda" if model.get_providers()[0] == _ONNX_PROVIDERS["cuda"] else "cpu"]
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return str(device if tensor is None else tensor.device)


def _open(package: Package, description: v0_4.ModelDescr | v0_5.ModelDescr, weight_format: str, device: str) -> Opened:
    try:
        # Named explicitly: the default opens one session for each ONNX Runtime provider.
        name = (_ONNX_PROVIDERS if weight_format == "onnx" else _TORCH_DEVICES)[device]
        if weight_format != "onnx" and device == "cuda" and not _torch_has_gpu():
            raise NoGpu(package.id, weight_format, "cpu")
        if weight_format == "onnx":
            _have_threads_sleep()
        # State dicts are opened with torch.load(weights_only=True): no code comes out of a weight file.
        with tensors_found(package):
            adapter = create_model_adapter(description, devices=[name], weight_format_priority_order=(weight_format,))  # type: ignore[arg-type]
        active = active_device(adapter)
        if not active.startswith(device):
            raise NoGpu(package.id, weight_format, active)
        opened = Opened(description, adapter, weight_format, active)
        opened.pipeline()  # which code of the package can fail to make
        return opened
    except WeightsError:
        raise
    except Exception as error:
        # Whatever the framework, or code of the package, raises.
        source = package.manifest.weights[weight_format].source
        raise WeightsNotOpened(package.id, weight_format, source, _in_short(error, package)) from error


@functools.cache
def _have_threads_sleep() -> None:
    """Have the threads of ONNX Runtime sleep when they have nothing to do, in sessions that are opened from now on.

    By default they look for work all the while, and for some 40 ms after a run: time that the answer lacks on its way to its
    client, and that other models lack. bioimageio.core 0.11 has no argument for it.
    """
    import onnxruntime

    from bioengine_runner.foreign import bioimageio_core_onnx

    bioimageio_core_onnx.check()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    bioimageio_core_onnx.wrap_sessions(lambda open: functools.partial(open, sess_options=options))


@contextlib.contextmanager
def tensors_found(package: Package) -> Iterator[None]:
    """Have ONNX Runtime open a package's weights from their file where tensors are in others, which it looks for beside it.

    bioimageio.core 0.11 does so for one file that is declared as `external_data`, which format 0.4 cannot say; else it gives
    bytes, which have no place. The files are verified by then.
    """
    weights = package.manifest.weights.get("onnx")
    if weights is None or len(weights.files) == 1:
        yield
        return
    from bioengine_runner.foreign import bioimageio_core_onnx

    bioimageio_core_onnx.check()
    file = package.folder / weights.source

    def from_file(open_session: bioimageio_core_onnx.Open) -> bioimageio_core_onnx.Open:
        return lambda content, **options: open_session(file if isinstance(content, bytes) else content, **options)

    with bioimageio_core_onnx.wrapped_sessions(from_file):
        yield


def _give_code_whole_images(pipeline: PredictionPipeline) -> None:
    """Have custom processing run on whole images, whatever the tiles of the others are: it may need all of one.

    bioimageio.core 0.11 takes it for a step that can be done tile by tile.
    """
    steps = bioimageio_core.steps_of(pipeline)
    before, after = steps.before_tile, steps.after_tile
    end = max((number for number, step in enumerate(before, 1) if isinstance(step, CustomProcessing)), default=0)
    start = next((number for number, step in enumerate(after) if isinstance(step, CustomProcessing)), len(after))
    whole = bioimageio_core.Steps(
        before_whole=[*steps.before_whole, *before[:end]],
        before_tile=before[end:],
        after_tile=after[:start],
        after_whole=[*after[start:], *steps.after_whole],
    )
    bioimageio_core.set_steps(pipeline, whole)


def _torch_has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _in_short(error: BaseException, package: Package) -> str:
    """What an error and its cause say, without the store's paths."""
    reasons = [in_short(each) for each in (error, error.__cause__) if each is not None]
    return ": ".join(reasons).replace(f"{package.folder}/", "")[:300]
