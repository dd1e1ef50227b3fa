"""Draw fluorescence images of nuclei, with the ground truth: touching nuclei, an uneven background, photon noise.

It uses only NumPy, because the model's training draws them too, in its own environment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLUR = 1.1  # pixels, standard deviation of the microscope's point spread function
_OFFSET = 100.0  # counts that the camera adds


@dataclass(frozen=True)
class DrawnImage:
    """An image and its ground truth. `image`: uint16 (y, x), counts. `labels`: int32 (y, x), 0 outside of nuclei."""

    image: np.ndarray
    labels: np.ndarray


def draw(seed: int, size: int = 256) -> DrawnImage:
    """An image of `size` x `size` pixels with nuclei of 7 to 15 pixels radius; the same for the same seed."""
    rng = np.random.default_rng(seed)
    labels = _nuclei(rng, size)
    brightness = np.concatenate([[0.0], rng.uniform(45, 130, labels.max())])
    texture = 1 + 0.2 * _smooth_noise(rng, size, 2.5)
    photons = _blurred(brightness[labels] * texture, _BLUR) + _background(rng, size)
    counts = rng.poisson(np.clip(photons, 0, None)) + _OFFSET + rng.normal(0, 2, (size, size))
    return DrawnImage(np.clip(counts.round(), 0, 65535).astype(np.uint16), labels)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """The Dice coefficient of two masks: twice the intersection, divided by the sum of both. 1 if both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int(np.logical_and(one, other).sum()) / total if total else 1.0


def _nuclei(rng: np.random.Generator, size: int) -> np.ndarray:
    """Labels of nuclei, most of which touch another one."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    labels = np.zeros((size, size), np.int32)
    placed: list[tuple[float, float, float]] = []
    for label in range(1, max(2, size * size // 1500) + 1):
        radius = rng.uniform(7, 15)
        center_y, center_x = rng.uniform(0, size, 2)
        if placed and rng.random() < 0.6:
            other_y, other_x, other_radius = placed[rng.integers(len(placed))]
            angle = rng.uniform(0, 2 * np.pi)
            distance = 0.95 * (radius + other_radius)
            center_y, center_x = other_y + distance * np.sin(angle), other_x + distance * np.cos(angle)
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
        along = (x - center_x) * np.cos(angle) + (y - center_y) * np.sin(angle)
        across = (y - center_y) * np.cos(angle) - (x - center_x) * np.sin(angle)
        around = np.arctan2(across, along)
        wobble = sum(rng.uniform(0, 0.07) * np.cos(n * around + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4))
        inside = np.hypot(along / np.sqrt(stretch), across * np.sqrt(stretch)) < radius * (1 + wobble)
        free = inside & (labels == 0)
        if free.sum() > 0.6 * inside.sum():
            labels[free] = label
            placed.append((center_y, center_x, radius))
    return labels


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """The background: uneven illumination and a few wide clouds, in places brighter than nuclei elsewhere."""
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(50, 120) * (1 + np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    for _ in range(rng.integers(2, 5)):
        center_y, center_x = rng.uniform(-0.1, 1.1, 2)
        width = rng.uniform(0.15, 0.4)
        light += rng.uniform(40, 170) * np.exp(-((y - center_y) ** 2 + (x - center_x) ** 2) / (2 * width**2))
    return np.asarray(light + 20)


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Noise with a mean of 0, a standard deviation of 1 and structures of about `sigma` pixels."""
    noise = _blurred(rng.normal(size=(size, size)), sigma)
    return np.asarray(noise / noise.std())


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of `sigma` pixels, as a product of Fourier transforms; the image's edges are mirrored."""
    margin = int(np.ceil(4 * sigma))
    padded = np.pad(image, margin, mode="reflect")
    frequencies = (np.fft.fftfreq(padded.shape[0])[:, None], np.fft.rfftfreq(padded.shape[1])[None])
    transfer = np.exp(-2 * (np.pi * sigma) ** 2 * (frequencies[0] ** 2 + frequencies[1] ** 2))
    blurred = np.fft.irfft2(np.fft.rfft2(padded) * transfer, s=padded.shape)
    return blurred[margin:-margin, margin:-margin]
