"""Train the model that comes with the project, `drawn-nuclei`, and write its package.

    <environments>/runner/bin/python model_runner/training/train_nuclei.py [FOLDER]

Draws its images (`bioengine_server.demo.nuclei`), trains a small 2D U-Net on the CPU, scores it on images that it has not
seen, and writes the package to FOLDER, by default where the server takes it from. About ten minutes on two cores.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
# The drawing is the server's, for the demo; it needs NumPy alone, so it can be taken from there without an installation.
sys.path.insert(0, str(ROOT / "server"))

from bioengine_server.demo.nuclei import DrawnImage, dice, draw  # noqa: E402

PACKAGE = ROOT / "server" / "bioengine_server" / "packages" / "drawn-nuclei"

TRAINING_SEEDS = range(1_000_000, 1_000_900)
UNSEEN_SEEDS = range(16)  # the test of the repository uses these too

CHANNELS = (8, 16, 32, 64)
STEP = 2 ** (len(CHANNELS) - 1)  # pixels: sizes that can be halved at each level
HALO = 32  # pixels
SMALLEST = 2 * HALO + STEP  # pixels; the specification wants more than the halo on both sides
SIZE = 128  # pixels, of training and test images
STEPS, BATCH = 1400, 16
BOUNDARY_WIDTH = 2  # pixels to each side


class UNet(nn.Module):
    """(batch, 1, y, x) of zero mean and unit variance -> (batch, 2, y, x): probabilities of nucleus and of boundary."""

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((1, *channels), channels))
        self.up = nn.ModuleList(_block(a + b, b) for a, b in zip(channels[:0:-1], channels[-2::-1]))
        self.last = nn.Conv2d(channels[0], 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.logits(image))

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        levels: list[torch.Tensor] = []
        for number, block in enumerate(self.down):
            image = block(nn.functional.max_pool2d(image, 2) if number else image)
            levels.append(image)
        levels.pop()
        for block in self.up:
            larger = nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")
            image = block(torch.cat([larger, levels.pop()], 1))
        logits: torch.Tensor = self.last(image)
        return logits


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((channels_in, channels_out), (channels_out, channels_out)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def normalized(image: np.ndarray) -> np.ndarray:
    """As the package's pre-processing does it: zero mean, unit variance. float32 (y, x)."""
    values = image.astype(np.float64)
    return np.asarray((values - values.mean()) / (values.std() + 1e-6), np.float32)


def targets(drawn: DrawnImage) -> np.ndarray:
    """What the network is to say: float32 (2, y, x), nucleus and boundary between nuclei that touch."""
    labels = drawn.labels
    boundary = np.zeros(labels.shape, bool)
    reach = range(-BOUNDARY_WIDTH, BOUNDARY_WIDTH + 1)
    for shift in ((dy, dx) for dy in reach for dx in reach):
        other = np.roll(labels, shift, (0, 1))
        boundary |= (labels > 0) & (other > 0) & (other != labels)
    return np.asarray([labels > 0, boundary], np.float32)


def train() -> UNet:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    drawn = [draw(seed, SIZE) for seed in TRAINING_SEEDS]
    images = torch.from_numpy(np.stack([normalized(item.image) for item in drawn])[:, None])
    wanted = torch.from_numpy(np.stack([targets(item) for item in drawn]))
    model = UNet()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=STEPS)
    for step in range(STEPS):
        chosen = torch.from_numpy(rng.integers(len(images), size=BATCH))
        image, truth = images[chosen], wanted[chosen]
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        image, truth = (torch.rot90(item, turns, (2, 3)) for item in (image, truth))
        if mirrored:
            image, truth = image.flip(3), truth.flip(3)
        logits = model.logits(image)
        probability = torch.sigmoid(logits)
        overlap = 1 - (2 * (probability * truth).sum((0, 2, 3)) + 1) / ((probability + truth).sum((0, 2, 3)) + 1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, truth) + overlap.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()
    return model


def predict(model: UNet, image: np.ndarray) -> np.ndarray:
    """float32 (2, y, x) for an image (y, x)."""
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(normalized(image))[None, None])[0])


def write_package(model: UNet, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    example = draw(UNSEEN_SEEDS[0], SIZE).image
    image = example.astype(np.float32)[None, None]
    np.save(folder / "test_input.npy", image)
    np.save(folder / "test_output.npy", predict(model, example)[None])
    sample = torch.from_numpy(normalized(example))[None, None]
    torch.jit.trace(model, sample).save(str(folder / "weights_torchscript.pt"))
    free = {0: "batch", 2: "y", 3: "x"}
    torch.onnx.export(
        model,
        (sample,),
        str(folder / "weights.onnx"),
        input_names=["image"],
        output_names=["probability"],
        dynamic_axes={"image": free, "probability": free},
        opset_version=17,
        dynamo=False,  # the newer exporter needs packages that serving does not
    )
    cover = draw(UNSEEN_SEEDS[1]).image
    low, high = np.percentile(cover, (0.5, 99.8))
    shown = np.clip((cover - low) / (high - low), 0, 1)
    pair = np.hstack([shown, predict(model, cover)[0]])
    Image.fromarray((pair * 255).astype(np.uint8)).save(folder / "cover.png", optimize=True)
    (folder / "README.md").write_text(DOCUMENTATION, encoding="utf-8")
    (folder / "rdf.yaml").write_text(yaml.safe_dump(description(folder), sort_keys=False, allow_unicode=True), encoding="utf-8")


DOCUMENTATION = f"""# Drawn nuclei

A small 2D U-Net that finds nuclei in fluorescence images, also where they touch and where the background is uneven. It comes
with the BioEngine server, so that a first run needs no download.

It was trained on images that a program drew and on no real ones (`model_runner/training/train_nuclei.py`, seeds
{TRAINING_SEEDS.start} to {TRAINING_SEEDS.stop - 1}): nuclei of 7 to 15 pixels radius, Poisson noise, uneven background. Take
it as an example; for real images take a model of the collection.

- Input: one channel, any intensities; height and width a multiple of {STEP}, at least {SMALLEST} pixels.
- Output: the probability of nucleus, and of the boundary between nuclei that touch.
- Validation: Dice's coefficient on images of seeds that training never saw; `bioengine demo` prints it for one.
"""


def description(folder: Path) -> dict[str, Any]:
    """The content of rdf.yaml, format 0.5."""

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}

    def space(axis: str, size: Any, **more: Any) -> dict[str, Any]:
        return {"type": "space", "id": axis, "size": size, **more}

    def like(axis: str) -> dict[str, str]:
        return {"tensor_id": "image", "axis_id": axis}

    size = {"min": SMALLEST, "step": STEP}
    framework = torch.__version__.partition("+")[0]
    return {
        "format_version": "0.5.4",
        "type": "model",
        "id": "drawn-nuclei",
        "name": "Drawn nuclei",
        "description": "Finds nuclei in 2D fluorescence images; trained on drawn ones. Comes with the BioEngine server.",
        "version": "1.0.0",
        "license": "MIT",
        "authors": [{"name": "The BioEngine server developers"}],
        "cite": [{"text": "Ronneberger et al. (2015), U-Net", "doi": "10.1007/978-3-319-24574-4_28"}],
        "tags": ["nuclei", "fluorescence-light-microscopy", "semantic-segmentation", "2d", "unet"],
        "covers": ["cover.png"],
        "documentation": "README.md",
        "timestamp": "2026-11-24T00:00:00+00:00",
        "inputs": [
            {
                "id": "image",
                "description": "fluorescence intensities",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["intensity"]},
                    space("y", size),
                    space("x", size),
                ],
                "data": {"type": "float32"},
                "preprocessing": [
                    {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": 1e-6}},
                ],
                "test_tensor": file("test_input.npy"),
            }
        ],
        "outputs": [
            {
                "id": "probability",
                "description": "of nucleus, and of the boundary between nuclei that touch",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["foreground", "boundary"]},
                    space("y", like("y"), halo=HALO),
                    space("x", like("x"), halo=HALO),
                ],
                "data": {"type": "float32"},
                "test_tensor": file("test_output.npy"),
            }
        ],
        "weights": {
            "onnx": {**file("weights.onnx"), "opset_version": 17},
            "torchscript": {**file("weights_torchscript.pt"), "pytorch_version": framework, "parent": "onnx"},
        },
    }


def evaluate(model: UNet) -> None:
    """Print Dice's coefficient on images that were not seen. The repository's tests compare it with Otsu's threshold."""
    drawn = [draw(seed) for seed in UNSEEN_SEEDS]
    scores = [dice(predict(model, item.image)[0] > 0.5, item.labels > 0) for item in drawn]
    print(f"Dice, mean of {len(drawn)} images: {np.mean(scores):.3f} (worst {min(scores):.3f})")


def main() -> None:
    torch.use_deterministic_algorithms(True)
    model = train()
    evaluate(model)
    write_package(model, Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)


if __name__ == "__main__":
    main()
