"""What is said of cards, drivers and libraries that do not fit together, and what to do about it."""

from __future__ import annotations

import pytest
from bioengine_runner.cards import Build, _problems
from bioengine_runner.gpu import CudaCard

from tests.unit.runner.fake_card import H200

ONNX, TORCH = Build("onnxruntime-gpu 1.31.1", (13, 0)), Build("torch 2.13.0", (13, 0), ((7, 5), (8, 0), (9, 0)))


def said(card: CudaCard, cuda: tuple[int, int], *builds: Build) -> list[str]:
    return [str(problem) for problem in _problems([card], cuda, builds)]


def test_a_card_that_works_has_no_problems() -> None:
    assert said(H200, (13, 0), ONNX, TORCH) == said(H200, (13, 2), ONNX, TORCH) == []


@pytest.mark.parametrize(
    ("found", "cuda", "texts"),
    [
        (H200, (12, 4), ["runs CUDA up to 12.4, and onnxruntime-gpu 1.31.1 was built for 13.0 and torch", "driver 580 or newer"]),
        (
            CudaCard("Tesla V100", (7, 0), 16 << 30, is_virtual=False),
            (13, 0),
            ["V100 has compute capability 7.0, and onnxruntime-gpu 1.31.1 needs 7.5 and torch", "26.03-py3", "12.6", "=cpu"],
        ),
        (CudaCard("A40-8Q", (8, 6), 8 << 30, is_virtual=True), (13, 0), ["A40-8Q is a virtual one (vGPU)", "licence"]),
    ],
)
def test_old_and_odd_cards_and_drivers_are_named_with_what_to_do(
    found: CudaCard, cuda: tuple[int, int], texts: list[str]
) -> None:
    (sentence,) = said(found, cuda, ONNX, TORCH)
    for text in texts:
        assert text in sentence


def test_libraries_for_the_cpu_are_named() -> None:
    (sentence,) = said(H200, (13, 0), Build("onnxruntime 1.32.0", (0, 0)), TORCH)
    assert "onnxruntime 1.32.0 was built for the CPU. " in sentence and "BIOENGINE_ACCELERATOR=cuda ./bioengine setup" in sentence
