"""The samples on which a converted model has to agree with its original: inputs of the network, without their processing.

Sample 0 is the package's test image, prepared as the description says. The server chooses the further ones and writes them to a
folder. Each step of a conversion reads them in the same way, and writes what comes out.

    sample-<s>-<i>.npy                          input number i of sample s, from 1 on; float32
    <eager | trace | onnx>-<s>-<o>.npy          output number o, as the network has given it; a trace is of PyTorch alone
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bioengine_contract.package import Package, read_package
from bioimageio.core.digest_spec import get_test_input_sample
from bioimageio.core.proc_setup import get_pre_and_postprocessing

from bioengine_runner.conversion.report import Refusal
from bioengine_runner.description import Description, open_description
from bioengine_runner.verify import verify_package, verify_weights

Arrays = list[np.ndarray]

_INTEGERS = 64  # what 1.0 stands for where a network takes integers


def opened(folder: Path, given: Path, format: str) -> tuple[Package, Description, list[Arrays]]:
    """A package with its weights of this format verified, its description, and its samples.

    Raises Refusal, WeightsDamaged, PackageUnreadable.
    """
    package = read_package(folder, is_default=True)
    verify_package(package, [format])
    verify_weights(package, format)
    description = open_description(package)
    return package, description, read_samples(package, description, given)


def read_samples(package: Package, description: Description, given: Path) -> list[Arrays]:
    """All samples; each has one array for each input, with the dtype that the network gets. Raises Refusal."""
    if any(spec.optional for spec in package.manifest.inputs):
        raise Refusal("it has optional inputs, which weights of ONNX could not leave out")
    test = _prepared(package, description)
    samples = [test]
    for number in itertools.count(1):
        files = [given / f"sample-{number}-{index}.npy" for index in range(len(test))]
        if not files[0].exists():
            return samples
        samples.append([_as(np.load(file), array.dtype) for file, array in zip(files, test)])
    raise AssertionError


def write_outputs(folder: Path, kind: str, sample: int, outputs: Sequence[Any]) -> None:
    for number, output in enumerate(outputs):
        np.save(folder / f"{kind}-{sample}-{number}.npy", np.asarray(output))


def sizes_of(arrays: Iterable[np.ndarray]) -> str:
    """The shapes of a sample, for people."""
    return " and ".join("x".join(map(str, array.shape)) for array in arrays)


def _prepared(package: Package, description: Description) -> Arrays:
    """The inputs of the network for the test image."""
    sample = get_test_input_sample(description)
    prepare, _ = get_pre_and_postprocessing(description, dataset_for_initial_statistics=[sample])
    prepare(sample)
    members = {str(id): tensor.to_numpy() for id, tensor in sample.members.items()}
    return [np.ascontiguousarray(members[spec.id]) for spec in package.manifest.inputs]


def _as(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if np.issubdtype(dtype, np.floating):
        return array.astype(dtype)
    if dtype == np.bool_:
        return array > 0
    rounded: np.ndarray = np.rint(np.abs(array) * _INTEGERS)
    return rounded.astype(dtype)
