"""Packages with a PyTorch state dict alone: an architecture file, made weights, and the test tensors of that very network.

    <runner environment>/bin/python -m tests.packages.state_dicts FOLDER [ID CODE NETWORK]

makes all of `STATE_DICTS`; or one with the architecture file CODE in FOLDER, and the weights of the file NETWORK there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.packages import architectures
from tests.packages.writing import BATCH, Package, channels, like, space, tensor, tensor_0_4

CODE = "architecture.py"


def network(source: str) -> torch.nn.Module:
    """The network of an architecture file in eval mode, with the same weights each time."""
    module: dict[str, Any] = {"__name__": "architecture"}
    exec(compile(source, CODE, "exec"), module)
    torch.manual_seed(7)
    made: torch.nn.Module = module["Network"]()
    with torch.no_grad():
        for buffer in made.buffers():  # as after training
            if buffer.dtype.is_floating_point:
                buffer.add_(torch.rand(buffer.shape))
    return made.eval()


def write(
    folder: Path,
    id: str,
    source: str,
    shape: tuple[int, ...],
    step: int = 0,
    is_0_4: bool = False,
    made_by: str | None = None,
    library: dict[str, Any] | None = None,
) -> Path:
    """Write a package.

    Args:
        folder, id: where, and its id.
        source: the architecture file, with a class `Network` that needs no arguments.
        shape: of the test image, `bcyx` or `bczyx`.
        step: by which sizes may grow; 0: they are fixed.
        is_0_4: in format 0.4.
        made_by: the source of a network with the same weights, which is run in place of one that cannot be run here.
        library: the architecture in place of the file: a network that a library has.
    """
    package = Package(folder, id)
    (package.folder / CODE).write_text(source)
    model = network(made_by or source)
    torch.save(model.state_dict(), package.folder / "weights.pt")
    image = np.random.default_rng(3).random(shape, np.float32)
    with torch.no_grad():
        result = model(torch.from_numpy(image)).numpy()
    hashes = {"sha256": package.sha256("weights.pt"), "source": "weights.pt"}
    if is_0_4:
        code = {"architecture": f"{CODE}:Network", "architecture_sha256": package.sha256(CODE), "kwargs": {}}
        package.rdf["weights"]["pytorch_state_dict"] = {**hashes, **code}
        given = {"min": list(shape), "step": [0, 0, *([step] * (len(shape) - 2))]} if step else list(shape)
        same = {"reference_tensor": "image", "scale": [1.0] * len(shape), "offset": [0.0] * len(shape)} if step else list(shape)
        letters = "bcyx" if len(shape) == 4 else "bczyx"
        package.save_0_4([(tensor_0_4("image", given, letters), image)], [(tensor_0_4("out", same, letters), result)])
        return package.folder
    architecture = library or {"source": CODE, "sha256": package.sha256(CODE), "callable": "Network", "kwargs": {}}
    version = torch.__version__.split("+")[0]
    package.rdf["weights"]["pytorch_state_dict"] = {**hashes, "architecture": architecture, "pytorch_version": version}
    letters = "yx" if len(shape) == 4 else "zyx"
    sizes = dict(zip(letters, shape[2:]))
    batch = BATCH if step else {**BATCH, "size": 1}
    into = [space(axis, {"min": size, "step": step} if step else size) for axis, size in sizes.items()]
    out = [space(axis, like("image", axis) if step else size) for axis, size in sizes.items()]
    names = [f"class{number}" for number in range(result.shape[1])]
    package.save(
        [(tensor("image", "float32", [batch, channels("raw"), *into]), image)],
        [(tensor("out", "float32", [batch, channels(*names), *out]), result)],
    )
    return package.folder


STATE_DICTS: tuple[Callable[[Path], Path], ...] = (
    partial(write, id="residual-rook", source=architectures.UNET_2D, shape=(1, 1, 32, 48), step=4),
    partial(write, id="older-ox", source=architectures.UNET_2D, shape=(1, 1, 32, 32), step=16, is_0_4=True),
    partial(write, id="spatial-snail", source=architectures.UNET_3D, shape=(1, 1, 4, 16, 16)),
    partial(write, id="patchy-penguin", source=architectures.TRANSFORMER, shape=(1, 1, 32, 32)),
    partial(write, id="numpy-newt", source=architectures.THROUGH_NUMPY, shape=(1, 1, 16, 16)),
    partial(write, id="branching-bee", source=architectures.ON_VALUES, shape=(1, 1, 16, 16)),
    partial(write, id="missing-mole", source=architectures.MISSING_MODULE, shape=(1, 1, 16, 16), made_by=architectures.small()),
    partial(write, id="careful-carp", source=architectures.CAREAMICS, shape=(1, 1, 16, 16), made_by=architectures.small()),
)


def write_careamics(folder: Path) -> Path:
    """A package as CAREamics exports them, where CAREamics is."""
    options = {"architecture": "UNet", "conv_dims": 2, "num_classes": 1, "in_channels": 1, "depth": 2, "num_channels_init": 8}
    source = f"from careamics.models.unet import UNet\ndef Network():\n    return UNet(**{options})\n"
    library = {"import_from": "careamics.models.unet", "callable": "UNet", "kwargs": options}
    return write(folder, "caring-crow", source, (1, 1, 32, 32), step=8, library=library)


def main() -> None:
    folder, *one = sys.argv[1:]
    if one:
        id, code, network = one
        sources = [(Path(folder) / name).read_text() for name in (code, network)]
        write(Path(folder), id, sources[0], (1, 1, 16, 16), made_by=sources[1])
        return
    for build in STATE_DICTS:
        build(Path(folder))


if __name__ == "__main__":
    main()
