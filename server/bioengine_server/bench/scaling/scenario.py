"""What is simulated: who asks for what, and how long each step takes. Each time says where it is from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEGABYTE = 1e6


@dataclass(frozen=True)
class Machine:
    """What a worker runs on.

    Attributes:
        base, per_pixel: seconds that a 2D U-Net takes for an image.
        load: seconds to load a model whose package is on the worker.
        models: how many stay loaded.
    """

    name: str
    base: float
    per_pixel: float
    load: float
    models: int


# docs/bench.md: 256x256 92 ms, 1024x1024 1,477 ms. Loading: 1.3 s for a trivial model, 2.5 s of imports, and a trial run.
CPU = Machine("2 CPU cores", base=0.0, per_pixel=1.41e-6, load=3.0, models=20)
# docs/gpu.md: 256x256 1.4 ms, 1024x1024 7.0 ms in one process, of which it hands 24 GB some twenty models. Loading is reckoned.
GPU = Machine("1 GPU", base=0.001, per_pixel=5.7e-9, load=5.0, models=20)

SIDES = (256, 1024, 2048)  # pixels of an image, which is float32, as is its result: 0.26, 4.2 and 16.8 MB
SIDE_SHARES = (0.3, 0.5, 0.2)


@dataclass(frozen=True)
class Scenario:
    """
    Attributes:
        workers, callers, servers: how many. Each of several servers has its share of the workers, and of the models.
        seed: everything random follows from it.
        seconds: that are counted, after as many as `settle`.
        places: requests that a worker takes before others go elsewhere (BIOENGINE_PLACES).
        concurrency, model_concurrency: requests that run at once for each worker, in all and of one model, as the settings.
        cpu_per_megabyte: seconds of the server's loop to and from callers; hypha-rpc takes 31 ms for 4.2 MB there and back.
        relay_per_megabyte: to and from workers: half of what an echo of 4.2 MB takes longer where a worker pulls (69, 48 ms).
        cpu_per_request: of the server's loop, whatever the size; an echo of 0.2 MB takes 2 ms in Hypha.
        copy: seconds that the model's process handles a megabyte besides computing: 6.5 ms for 4.2 MB there and back.
        network, store_network: bytes a second to a worker, of images (10 Gbit/s) and of packages (1 Gbit/s).
        models, exponent: of the zoo: the k-th model is asked for in proportion to k ** -exponent.
        weight: how much models differ: sigma of the logarithm of a model's time beside that of the U-Net, whose median is 1.
        session: requests that a caller sends to one model before another.
        pause: seconds between an answer and a caller's next request.
        hurried: share of the callers who work through a folder, without a pause.
    """

    workers: int
    callers: int
    machine: Machine = CPU
    servers: int = 1
    seed: int = 1
    seconds: float = 240.0
    settle: float = 120.0
    places: int = 4
    concurrency: int = 16
    model_concurrency: int = 4
    cpu_per_megabyte: float = 0.031 / 8.4
    relay_per_megabyte: float = 0.0105 / 8.4
    cpu_per_request: float = 0.002
    copy: float = 0.0065 / 8.4
    network: float = 1.25e9
    store_network: float = 1.25e8
    models: int = 93
    exponent: float = 1.0
    weight: float = 1.0
    session: float = 20.0
    pause: float = 10.0
    hurried: float = 0.1


@dataclass(frozen=True)
class Image:
    pixels: int

    @property
    def megabytes(self) -> float:
        return self.pixels * 4 / MEGABYTE


class Zoo:
    """Models by popularity, with their times and sizes, and what callers ask for."""

    def __init__(self, scenario: Scenario, random: np.random.Generator) -> None:
        shares = 1.0 / np.arange(1, scenario.models + 1) ** scenario.exponent
        self._random, self._shares = random, shares / shares.sum()
        self._weights = np.exp(random.normal(0.0, scenario.weight, scenario.models))
        self._packages = 60e6 * np.exp(random.normal(0.0, 0.8, scenario.models))  # bytes: U-Nets of 10 to 300 MB

    def model(self) -> int:
        """The one that a caller turns to."""
        return int(self._random.choice(len(self._shares), p=self._shares))

    def image(self) -> Image:
        return Image(int(self._random.choice(SIDES, p=SIDE_SHARES)) ** 2)

    def weight(self, model: int) -> float:
        """Its time beside that of the U-Net."""
        return float(self._weights[model])

    def package(self, model: int) -> float:
        """Bytes."""
        return float(self._packages[model])
