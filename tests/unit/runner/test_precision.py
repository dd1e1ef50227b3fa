"""How exactly TorchScript computes on a card, as far as its graphs say it; results on a card need one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bioengine_runner.precision import Precision, opening_torch


class Branching(torch.nn.Module):
    """Scripted, with a traced part in one branch."""

    def __init__(self, traced: torch.nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.sum() > 0:
            image = self.traced(image)
        return image


def may_round(script: Any) -> list[bool]:
    """Of each traced convolution, whether its products may be rounded to TensorFloat-32, as it is computed."""
    graph = script.inlined_graph
    return [list(node.inputs())[-1].toIValue() for node in graph.findAllNodes("aten::_convolution")]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 3)),
        torch.nn.ConvTranspose2d(2, 1, 2),
    )
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    traced = torch.jit.trace(layers, torch.rand(1, 1, 16, 16))
    torch.backends.cudnn.allow_tf32 = before
    torch.jit.script(Branching(traced)).save(str(tmp_path / "script.pt"))
    return tmp_path / "script.pt"


@pytest.mark.parametrize(("precision", "rounds"), [("exact", False), ("fast", True)])
def test_a_traced_model_computes_as_exactly_as_it_is_set(script: Path, precision: Precision, rounds: bool) -> None:
    as_it_is = torch.jit.load(script)
    assert may_round(as_it_is) == [True] * 3
    with opening_torch(precision):
        loaded = torch.jit.load(script)
    assert may_round(loaded) == [rounds] * 3
    assert torch.backends.cudnn.allow_tf32 is rounds and torch.backends.cuda.matmul.allow_tf32 is rounds
    image = torch.rand(1, 1, 16, 16)
    for _ in range(3):  # TorchScript optimizes its graphs in the first runs
        assert torch.equal(loaded(image), as_it_is(image))
    assert may_round(torch.jit.load(script)) == [True] * 3, "outside, nothing has changed"
