"""Whether this environment's libraries work with this machine's cards and driver, and what to do if they do not.

    python -m bioengine_runner.cards

prints `{"cuda": [major, minor], "cards": [...], "problems": [[what is wrong, what to do, whether models work anyway], ...]}` as
JSON, for `bioengine doctor`. The rules for old cards, old drivers and virtual cards come from the documentation of NVIDIA and the
libraries; they have not been tried on such hardware.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from bioengine_runner.gpu import CudaCard, cuda_cards, cuda_version

# By major version of CUDA: the oldest driver that supports it, and the smallest compute capability that it supports.
_DRIVERS = {12: 525, 13: 580}
_CAPABILITIES = {13: (7, 5)}

_OLDER_TRITON = "nvcr.io/nvidia/tritonserver:26.03-py3"
_OLDER_CUDA = "12.6"
_ON_THE_CPU = "or have models compute on the CPU with BIOENGINE_ACCELERATOR=cpu"


@dataclass(frozen=True)
class Problem:
    """`found`: what is wrong, or worth knowing. `advice`: what to do. `works`: whether models work anyway."""

    found: str
    advice: str
    works: bool = False

    def __str__(self) -> str:
        return f"{self.found}. {self.advice}"


@dataclass(frozen=True)
class Build:
    """How a library was built. `cuda`: for which CUDA version, (0, 0) for the CPU. `capabilities`: compute capabilities that it
    contains code for, if known.
    """

    name: str
    cuda: tuple[int, int]
    capabilities: tuple[tuple[int, int], ...] = ()

    @property
    def least_capability(self) -> tuple[int, int]:
        return max(min(self.capabilities, default=(0, 0)), _CAPABILITIES.get(self.cuda[0], (0, 0)))


def problems() -> list[Problem]:
    """What prevents models from using this machine's cards, or is special about these cards. Empty if there is no card."""
    found = cuda_cards()
    return list(_problems(found, cuda_version(), builds())) if found else []


def builds() -> list[Build]:
    """The libraries that run models. This imports them, which takes seconds."""
    import onnxruntime
    import torch

    onnx = next((name for name in ("onnxruntime-gpu", "onnxruntime") if _is_installed(name)), "onnxruntime")
    return [
        Build(f"{onnx} {onnxruntime.__version__}", _parsed(getattr(onnxruntime, "cuda_version", ""))),
        Build(f"torch {torch.__version__}", _parsed(torch.version.cuda or ""), _architectures(torch.cuda.get_arch_list())),
    ]


def _problems(found: Sequence[CudaCard], driver: tuple[int, int], libraries: Sequence[Build]) -> Iterator[Problem]:
    for_gpu = [library for library in libraries if library.cuda > (0, 0)]
    if lacking := [library.name for library in libraries if library not in for_gpu]:
        yield Problem(
            f"{' and '.join(lacking)} {'were' if len(lacking) > 1 else 'was'} built for the CPU",
            "Build the environment for the card with `BIOENGINE_ACCELERATOR=cuda ./bioengine setup` (containers: "
            "BIOENGINE_RUNTIME=nvidia and `docker compose build`).",
        )
    if too_new := [library for library in for_gpu if library.cuda[0] > driver[0]]:
        newest = max(library.cuda for library in too_new)
        yield Problem(
            f"NVIDIA's driver runs CUDA up to {_dotted(driver)}, and {_built(too_new)}",
            f"Install driver {_DRIVERS.get(newest[0], 'for that CUDA')} or newer (`sudo ubuntu-drivers install`, then restart); "
            f"{_ON_THE_CPU}.",
        )
    for card in dict.fromkeys(found):
        if too_old := [library for library in for_gpu if card.capability < library.least_capability]:
            needs = " and ".join(f"{library.name} needs {_dotted(library.least_capability)}" for library in too_old)
            yield Problem(
                f"the card {card.name} has compute capability {_dotted(card.capability)}, and {needs}",
                f"Use a card of 7.5 or more (Turing, RTX 20xx, T4 and later), {_ON_THE_CPU}. To use this one, give the model "
                f"runner's environment builds for CUDA {_OLDER_CUDA} of torch (PyTorch's cu{_OLDER_CUDA.replace('.', '')}) and "
                f"onnxruntime-gpu; containers also need TRITON_IMAGE={_OLDER_TRITON} or older. That has not been tried.",
            )
        if card.is_virtual:
            yield Problem(
                f"the card {card.name} is a virtual one (vGPU)",
                "See that its licence is valid (`nvidia-smi -q`), else it becomes slow after some minutes. The memory that each "
                "model holds is measured by its own process, since NVIDIA's management library counts wrongly here.",
                works=True,
            )


def _built(libraries: Sequence[Build]) -> str:
    each = [f"{library.name} was built for {_dotted(library.cuda)}" for library in libraries]
    return " and ".join(each)


def _architectures(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """sm_75, sm_100, sm_90a -> (7, 5), (10, 0), (9, 0)."""
    numbers = [name.partition("_")[2].rstrip("af") for name in names]
    return tuple((int(number[:-1]), int(number[-1])) for number in numbers if number.isdigit() and len(number) > 1)


def _parsed(text: str) -> tuple[int, int]:
    major, _, minor = str(text).partition(".")
    return (int(major), int(minor.partition(".")[0] or 0)) if major.isdigit() else (0, 0)


def _dotted(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def main() -> None:
    found = cuda_cards()
    told = [(problem.found, problem.advice, problem.works) for problem in problems()]
    print(json.dumps({"cuda": cuda_version(), "cards": [asdict(card) for card in found], "problems": told}))


if __name__ == "__main__":
    main()
