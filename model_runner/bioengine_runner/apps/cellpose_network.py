"""Cellpose's U-Net with weights of a file, which is data: a pickle is read without running what it names."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bioengine_runner.apps.errors import AppWeightsRefused
from bioengine_runner.reasons import in_short

if TYPE_CHECKING:
    from cellpose.models import CellposeModel

_EXPECTED = (
    "the state dict of a Cellpose 1, 2 or 3 U-Net, as Cellpose itself saves it (cyto, cyto2, cyto3, nuclei, or trained by its "
    "programs)"
)
# The diameters of the objects that a network was trained with. Weights of Cellpose 1 do not have them.
_DIAMETERS = ("diam_mean", "diam_labels")
_EARLY_DIAMETERS = {"nuclei": 17.0}  # pixels; of all others 30
_CHANNELS = 2


def weight_files(folder: Path) -> dict[str, Path]:
    """The files of weights by model type."""
    return {file.stem: file for file in sorted(folder.glob("*.pth"))}


def read_weights(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors in `file`, all of a network: Cellpose 3 takes what is there and leaves the rest random.

    Raises AppWeightsRefused.
    """
    from cellpose.resnet_torch import CPnet

    try:
        tensors: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = in_short(error).split(". ")[0]
        raise AppWeightsRefused(
            file,
            "Cellpose",
            f"it contains more than tensors, which is not opened because it could run code ({reason})",
            _EXPECTED,
        ) from error
    except Exception as error:
        raise AppWeightsRefused(file, "Cellpose", f"torch cannot open it ({in_short(error)})", _EXPECTED) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise AppWeightsRefused(file, "Cellpose", "it is not a state dict", _EXPECTED)
    wanted = CPnet([_CHANNELS, 32, 64, 128, 256], 3, sz=3).state_dict()
    for name, tensor in wanted.items():
        if name in _DIAMETERS and name not in tensors:
            continue
        if name not in tensors:
            raise AppWeightsRefused(file, "Cellpose", f"the tensor {name} is missing", _EXPECTED)
        if tensors[name].shape != tensor.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
            raise AppWeightsRefused(file, "Cellpose", f"the tensor {name} has the shape {shapes}", _EXPECTED)
    return tensors


def open_cellpose(file: Path, on_gpu: bool) -> CellposeModel:
    """Cellpose with the weights in `file`, whose name is their model type; on the GPU if there is one and it is wanted.

    Raises AppWeightsRefused.
    """
    from cellpose.models import CellposeModel  # compiles for seconds

    tensors = read_weights(file)
    device = torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
    model = CellposeModel(pretrained_model=str(file), device=device)
    if not tensors.keys() & set(_DIAMETERS) and file.stem in _EARLY_DIAMETERS:
        model.diam_mean = model.diam_labels = _EARLY_DIAMETERS[file.stem]
    return model
