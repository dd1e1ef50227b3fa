"""Drawn discs, and how well labels agree with them."""

from __future__ import annotations

import numpy as np

RADIUS = 6  # pixels


def centres(shape: tuple[int, int], step: int = 20) -> np.ndarray:
    """The centres of discs on a grid that is a little shaken, (n, 2)."""
    rows, columns = (np.arange(step // 2 + 2, size - step // 2 - 2, step) for size in shape)
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return points + np.random.default_rng(5).integers(-2, 3, points.shape)


def discs(shape: tuple[int, int]) -> np.ndarray:
    """The number of each disc, from 1 on, int32, (y, x)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (row, column) in enumerate(centres(shape), 1):
        labels[np.hypot(y - row, x - column) <= RADIUS] = number
    return labels


def hills(shape: tuple[int, int]) -> np.ndarray:
    """Discs as hills: from 0 at the border to 1 in the middle, float32, (y, x)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape, np.float32)
    for row, column in centres(shape):
        distance = np.hypot(y - row, x - column)
        image = np.maximum(image, (1 - distance / (RADIUS + 1)).astype(np.float32))
    return image


def photographed(image: np.ndarray, brightness: float = 2000) -> np.ndarray:
    """An image as a camera gives it: uint16, with an offset and noise."""
    noise = np.random.default_rng(7).normal(0, brightness / 100, image.shape)
    return (100 + brightness * image + noise).clip(0).astype(np.uint16)


def agreement(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """For each drawn disc, its overlap with the one object that covers its middle: intersection over union."""
    overlaps = []
    for number in range(1, int(truth.max()) + 1):
        disc = truth == number
        found = labels[disc]
        if not found.any():
            overlaps.append(0.0)
            continue
        same = labels == np.bincount(found[found > 0]).argmax()
        overlaps.append((same & disc).sum() / (same | disc).sum())
    return np.array(overlaps)
