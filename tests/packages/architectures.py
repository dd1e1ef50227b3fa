"""Code of networks as packages of the collection bring it: the source of an architecture file, each with a class `Network`.

They import torch alone, unless their names say more. Sizes are small, so that a test takes seconds.
"""

from __future__ import annotations

UNET_2D = """
import torch
from torch import nn


class SqueezeExcite(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(features, features // 2, 1), nn.ReLU(),
            nn.Conv2d(features // 2, features, 1), nn.Sigmoid(),
        )

    def forward(self, x):
        return x * self.weigh(x)


class Attention(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.of_skip, self.of_gate = nn.Conv2d(features, features, 1), nn.Conv2d(features, features, 1)
        self.to_one = nn.Conv2d(features, 1, 1)

    def forward(self, skip, gate):
        return skip * torch.sigmoid(self.to_one(torch.relu(self.of_skip(skip) + self.of_gate(gate))))


class Residual(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ELU(),
            nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(2, after), nn.Dropout2d(0.5),
        )
        self.straight = nn.Conv2d(before, after, 1)
        self.excite = SqueezeExcite(after)

    def forward(self, x):
        return torch.relu(self.excite(self.body(x)) + self.straight(x))


class Network(nn.Module):
    def __init__(self, features=4, levels=2):
        super().__init__()
        sizes = [features << level for level in range(levels + 1)]
        self.down = nn.ModuleList(Residual(before, after) for before, after in zip([1, *sizes], sizes))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * size, size, 2, stride=2) for size in reversed(sizes[:-1]))
        self.attend = nn.ModuleList(Attention(size) for size in reversed(sizes[:-1]))
        self.join = nn.ModuleList(Residual(2 * size, size) for size in reversed(sizes[:-1]))
        self.last = nn.Conv2d(features, 1, 1)

    def forward(self, x):
        skips = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for up, attend, join, skip in zip(self.up, self.attend, self.join, reversed(skips[:-1])):
            x = up(x)
            if x.shape[-2:] != skip.shape[-2:]:
                x = nn.functional.interpolate(x, skip.shape[-2:])
            x = join(torch.cat([attend(skip, x), x], 1))
        return torch.sigmoid(self.last(x))
"""
"""Residual blocks with squeeze and excitation, and attention gates; batch and group normalisation, and dropout."""

UNET_3D = """
import torch
from torch import nn


def convolutions(before, after):
    return nn.Sequential(
        nn.Conv3d(before, after, 3, padding=1), nn.InstanceNorm3d(after, affine=True), nn.LeakyReLU(),
        nn.Conv3d(after, after, 3, padding=1), nn.LeakyReLU(),
    )


class Network(nn.Module):
    def __init__(self, features=4):
        super().__init__()
        self.first, self.deep = convolutions(1, features), convolutions(features, 2 * features)
        self.second, self.last = convolutions(3 * features, features), nn.Conv3d(features, 2, 1)

    def forward(self, x):
        skip = self.first(x)
        deep = self.deep(nn.functional.max_pool3d(skip, (1, 2, 2)))
        up = nn.functional.interpolate(deep, scale_factor=(1, 2, 2), mode="trilinear")
        return torch.softmax(self.last(self.second(torch.cat([skip, up], 1))), 1)
"""

TRANSFORMER = """
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, size=32, patch=8, features=16):
        super().__init__()
        self.side, self.patch = size // patch, patch
        self.embed = nn.Conv2d(1, features, patch, stride=patch)
        self.position = nn.Parameter(torch.randn(1, self.side**2, features))
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(features, 2, 32, batch_first=True), 2)
        self.last = nn.ConvTranspose2d(features, 1, patch, stride=patch)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        tokens = self.blocks(tokens)
        return self.last(tokens.transpose(1, 2).reshape(x.shape[0], -1, self.side, self.side))
"""

SMALL = """
{imports}
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
{forward}
        return self.layer(x)
"""
"""One convolution, with `imports` above and the lines `forward` before it."""


def small(imports: str = "", forward: str = "") -> str:
    lines = "\n".join(f"        {line}" for line in forward.splitlines())
    return SMALL.format(imports=imports, forward=lines)


THROUGH_NUMPY = small("import numpy as np", "x = x + torch.from_numpy(np.tanh(x.detach().numpy()).astype(np.float32))")
"""Exact on the traced image, and wrong elsewhere: the trace has the image's own numbers as constants."""

ON_VALUES = small(forward="if float(x.mean()) < 0.25:\n    x = x * 2\nelse:\n    x = 1 - x")
"""Exact on images like the traced one, and wrong on those of the other branch."""

MISSING_MODULE = small("import lightsheet_tools")
CAREAMICS = small("import careamics.models")

TORCHVISION_AND_TIMM = """
import torch
import torchvision
from timm.layers import DropPath
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torchvision.models.resnet.BasicBlock(8, 8)
        self.first, self.last, self.drop = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 1), DropPath(0.1)

    def forward(self, x):
        return self.last(self.drop(self.features(self.first(x))))
"""
"""What the architectures of the collection import that this project's own environment lacks."""
