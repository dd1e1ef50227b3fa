"""Models on a card, which is a fake here (`fake_card`): which weights are used, what is asked of it, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from bioengine_contract.model_errors import TooLittleMemory
from bioengine_contract.package import Package
from bioengine_contract.package_errors import NoWeightsWork
from bioengine_runner import gpu, onnx_sessions, trial, weights
from bioengine_runner.errors import WeightsFail
from bioengine_runner.inference import Pipeline
from bioengine_runner.loading.loader import Loader
from bioengine_runner.loading.records import MODELS, Records
from bioengine_runner.opened import Opened
from bioengine_runner.rundir import Boot
from bioengine_runner.sessions_by_shape import AGAIN, MAX_FURTHER, SessionsByShape

from tests.packages import usual
from tests.packages.build import ALL_KINDS
from tests.packages.usual import USUAL
from tests.unit.runner.fake_card import H200, NO_CUDNN, OUT_OF_MEMORY, TOO_LARGE, FakeCard
from tests.unit.runner.stored import stored

BOTH = ["onnx", "torchscript"]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    yield FakeCard().install(monkeypatch)
    for cached in (gpu._context, gpu._management_library, onnx_sessions.preload_libraries):
        cached.cache_clear()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """An image of three channels, of free sizes."""
    usual.conscientious_seashell(tmp_path)
    return stored(tmp_path / "conscientious-seashell", "conscientious-seashell")


def pipeline(package: Package, formats: list[str], **options: Any) -> Pipeline:
    boot = Boot(package.folder, package.folder, run_timeout=1, debug=False)
    return Pipeline(package, formats, replace(boot, **options))


def image(*shape: int) -> list[np.ndarray | None]:
    return [np.random.default_rng(0).random(shape, np.float32)]


# --- the device is proven


def test_the_libraries_of_the_environment_are_loaded_before_a_session_is_opened(card: FakeCard, package: Package) -> None:
    assert pipeline(package, ["onnx"]).opened.device == "cuda:0"
    assert card.opened[0] == "libraries" and len(card.sessions) == 1
    assert card.sessions[0].shapes == [(1, 3, 16, 16)], "the smallest image that the model takes"


def test_a_session_that_opens_and_cannot_run_is_not_used(
    card: FakeCard, package: Package, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    card.fails = lambda shape: NO_CUDNN
    model = pipeline(package, BOTH)
    assert (model.opened.weight_format, model.opened.device) == ("onnx", "cpu"), "the next device, and the best format there"
    assert model.predict(image(1, 3, 32, 32))[0].shape == (1, 1, 32, 32)
    assert "not used on the device cuda" in caplog.text and "cuDNN is unavailable" in caplog.text
    framework, *notes = model.opened.details.splitlines()
    assert framework == f"ONNX Runtime {onnxruntime.__version__}, CPUExecutionProvider"
    assert [note.split(" (")[0] for note in notes] == [
        "not used: onnx on cuda opened on the device cuda:0, where a first run fails",
        "not used: torchscript on cuda would compute on the device cpu, but this server is set to use a GPU",
    ]
    assert "cuDNN is unavailable" in notes[0]


def test_where_nothing_else_is_left_all_reasons_are_told(card: FakeCard, package: Package) -> None:
    card.fails = lambda shape: NO_CUDNN
    with pytest.raises(NoWeightsWork) as error:
        pipeline(package, BOTH, accelerator="cuda")
    assert "onnx: opened on the device cuda:0, where a first run fails (ONNX Runtime: CUDA failure: cuDNN is" in str(error.value)
    assert "torchscript: would compute on the device cpu" in str(error.value)
    with pytest.raises(WeightsFail, match=r"a first run on a small image fails there: .*cuDNN is unavailable.*doctor`.*=cpu"):
        pipeline(package, ["onnx"], accelerator="cuda")


def test_reasons_of_both_devices_are_told(card: FakeCard, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    card.fails = lambda shape: NO_CUDNN
    (package.folder / "weights_torchscript.pt").unlink(missing_ok=True)
    monkeypatch.setattr(weights, "device_name", lambda format, device: onnx_sessions.CUDA if device == "cuda" else "NoProvider")
    with pytest.raises(NoWeightsWork, match=r"onnx on cuda: opened on .*cuDNN.*; onnx on cpu: "):
        pipeline(package, ["onnx"])


def test_a_description_that_promises_too_small_sizes_is_no_fault_of_the_card(card: FakeCard, package: Package) -> None:
    card.fails = lambda shape: "the kernel is larger than the image" if shape[-1] < 64 else ""
    assert pipeline(package, ["onnx"], accelerator="cuda").opened.device == "cuda:0"


def test_on_the_cpu_weights_that_fail_on_a_small_image_come_after_those_that_do_not(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Opened.forward

    def fails(self: Opened, arrays: Any) -> Any:
        if self.weight_format == "onnx":
            raise RuntimeError("no kernel for it")
        return forward(self, arrays)

    monkeypatch.setattr(Opened, "forward", fails)
    chosen = pipeline(package, BOTH, accelerator="cpu").opened
    assert chosen.weight_format == "torchscript" and "not used: onnx on cpu opened on the device cpu, where" in chosen.details
    left = pipeline(package, ["onnx"], accelerator="cpu").opened
    assert left.weight_format == "onnx" and left.details.count("\n") == 0, "nothing else is left, and nothing was tried before"


def test_the_faster_of_two_formats_is_used_and_both_times_are_told(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card; here the CPU stands in for it."""
    seconds = {"onnx": 0.033, "torchscript": 0.002}
    monkeypatch.setattr(trial, "_seconds_in_turn", lambda opened: seconds[opened.weight_format])
    monkeypatch.setattr(Opened, "is_on_card", property(lambda self: True))
    monkeypatch.setattr(Opened, "padded_samples", lambda self, samples, pixels: samples)
    opened = pipeline(package, BOTH, accelerator="cpu").opened
    assert opened.weight_format == "torchscript"
    framework, *notes = opened.details.splitlines()
    assert framework == f"torch {torch.__version__}"
    assert notes == ["precision: exact", "the fastest for three sizes in turn: onnx 33.0 ms, torchscript 2.0 ms"]
    seconds["torchscript"] = 0.04
    assert pipeline(package, BOTH, accelerator="cpu").opened.weight_format == "onnx"


@pytest.mark.parametrize("build", [*ALL_KINDS, *USUAL])
def test_every_kind_of_model_is_proven_and_gives_memory_back(card: FakeCard, tmp_path: Path, build: Any) -> None:
    """Several inputs, optional ones, fixed sizes, integers, steps of all kinds."""
    build(tmp_path)
    (folder,) = tmp_path.iterdir()
    package = stored(folder, folder.name, code=())
    if "onnx" not in package.manifest.weights or folder.name == "step-scale-mean-variance":  # which no image gets through
        return
    model = pipeline(package, ["onnx"], accelerator="cuda")
    (session,) = card.sessions
    assert model.opened.device == "cuda:0" and len(session.shapes) == 1
    model._give_back()
    assert session.shrinks == 1


# --- precision


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("exact", {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}),
        ("fast", {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1", "prefer_nhwc": "1"}),
    ],
)
def test_precision_is_what_the_setting_says(card: FakeCard, package: Package, precision: str, options: dict[str, str]) -> None:
    pipeline(package, ["onnx"], precision=precision)
    assert card.sessions[0].options == options
    pipeline(package, ["torchscript"], accelerator="cpu", precision=precision)
    import torch

    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is (precision == "fast")


# --- shapes


def test_joined_batches_have_few_sizes_on_the_card(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    (session,) = card.sessions
    del session.shapes[:]
    requests = [image(1, 3, 32, 32), image(2, 3, 32, 32)[:1], image(2, 3, 32, 32)]
    together = model.predict_together(requests)
    assert session.shapes == [(8, 3, 32, 32)], "five samples, filled up"
    for one, alone in zip(together, (model.predict(each) for each in requests)):
        assert not isinstance(one, BaseException)
        np.testing.assert_allclose(one[0], alone[0], rtol=1e-5)
    assert session.shapes[1:] == [(1, 3, 32, 32), (2, 3, 32, 32), (2, 3, 32, 32)]


def test_on_the_cpu_small_images_are_joined_and_others_are_not(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pipeline(package, ["onnx"], accelerator="cpu")
    batches: list[int] = []
    forward = Opened.forward

    def seen(self: Opened, arrays: Any) -> Any:
        batches.append(len(next(iter(arrays.values()))))
        return forward(self, arrays)

    monkeypatch.setattr(Opened, "forward", seen)
    model.predict_together([image(1, 3, 64, 64)] * 5)
    model.predict_together([image(1, 3, 256, 256)] * 3)
    assert batches == [5, 1, 1, 1]


def test_sizes_in_turn_have_a_plan_each_after_a_while(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    sizes = (32, 64, 96)
    for _ in range(AGAIN + 1):
        for size in sizes:
            model.predict(image(1, 3, size, size))
    plans = sum(session.plans for session in card.sessions)
    for _ in range(10):
        for size in sizes:
            model.predict(image(1, 3, size, size))
    assert sum(session.plans for session in card.sessions) == plans, "none is planned again"
    assert len(card.sessions) <= 1 + MAX_FURTHER


def test_ever_other_sizes_open_no_further_sessions(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    for size in range(16, 1600, 16):
        model.predict(image(1, 3, 16, size))
    for size in range(16, 256, 16):
        for _ in range(AGAIN):
            model.predict(image(1, 3, 16, size))
    assert len(card.sessions) == 1, "and neither do sizes that come several times in a row"


def test_a_full_card_gets_no_further_sessions(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    card.used = H200.memory - (1 << 30)
    for _ in range(10):
        for size in (32, 64):
            assert model.predict(image(1, 3, size, size))[0].shape[-1] == size
    assert len(card.sessions) == 1


def test_a_session_that_cannot_be_opened_again_is_not_asked_for_twice() -> None:
    class One:
        def run(self, outputs: Any, feed: Any, options: Any) -> int:
            return len(feed)

    tries = []

    def fails() -> Any:
        tries.append(1)
        raise RuntimeError("out of memory")

    sessions = SessionsByShape(One(), fails, lambda: True)
    for _ in range(20):
        for size in (1, 2):
            assert sessions.run(None, {"image": np.zeros(size)}) == 1
    assert len(tries) == 1


def test_shapes_with_sessions_of_their_own_are_reported(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    told: list[str] = []
    model.when_memory_changes(lambda: told.append(model.opened.details))
    for _ in range(AGAIN):
        for size in (32, 64):
            model.predict(image(1, 3, size, size))
    assert told and "\nsessions of their own have the shapes 1x3x32x32" in told[0]
    assert told[0].splitlines()[0] == f"ONNX Runtime {onnxruntime.__version__}, CUDAExecutionProvider"
    model.opened.keep_less()
    assert "sessions" not in model.opened.details


# --- memory


def free(card: FakeCard, size: int) -> None:
    card.used = H200.memory - size


def test_tiles_are_planned_from_the_memory_of_the_card(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    assert model.fits_whole(image(1, 3, 1200, 1200))
    free(card, 100 << 20)  # and the host has gigabytes
    assert not model.fits_whole(image(1, 3, 1200, 1200))


@pytest.mark.parametrize("reason", [TOO_LARGE, OUT_OF_MEMORY])
def test_the_size_of_tiles_that_worked_is_remembered(card: FakeCard, package: Package, reason: str) -> None:
    model = pipeline(package, ["onnx"])
    failures: list[tuple[int, ...]] = []

    def fails(shape: tuple[int, ...]) -> str:
        if shape[-1] * shape[-2] <= 128 * 128:
            return ""
        failures.append(shape)
        return reason

    card.fails = fails
    arrays = image(1, 3, 480, 480)
    for size in (32, 64) * AGAIN:
        model.predict(image(1, 3, size, size))
    assert len(model.opened.framework_model.all) > 1
    (first,) = model.predict(arrays)
    assert len(model.opened.framework_model.all) == 1, "memory is more wanted than plans"
    assert 0 < len(failures) <= 3 and card.sessions[0].shrinks == len(failures)
    del failures[:]
    (second,) = model.predict(arrays)
    assert failures == [], "the second image begins with tiles"
    np.testing.assert_array_equal(first, second)


def test_an_image_that_cannot_be_cut_is_refused_with_numbers(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    card.fails = lambda shape: OUT_OF_MEMORY
    with pytest.raises(TooLittleMemory) as error:
        model.predict(image(1, 3, 16, 16))
    assert error.value.status == 413
    assert "The memory of the card (cuda:0) is not enough for model 'conscientious-seashell'" in str(error.value)
    assert "GB are free" in str(error.value) and "send a smaller image" in str(error.value)


def test_tiles_that_would_fill_the_memory_are_refused_with_some_that_fit(card: FakeCard, package: Package) -> None:
    model = pipeline(package, ["onnx"])
    model._budget._bytes_per_pixel = 1000.0
    free(card, 2 << 30)
    with pytest.raises(
        TooLittleMemory, match=r"of about 4\.2 GB would be needed .* 2\.1 GB are free\. Send tile=\{.*\}, or leave"
    ):
        model.predict(image(1, 3, 2048, 2064), {"y": 2048, "x": 2048})


def test_what_a_process_holds_is_reckoned_where_nvml_does_not_know(
    card: FakeCard, package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward = Opened.forward

    def takes(self: Opened, arrays: Any) -> Any:
        card.used += (3 << 30) if self.signature.pixels([*arrays.values()]) > 500_000 else 0
        return forward(self, arrays)

    monkeypatch.setattr(Opened, "forward", takes)
    model = pipeline(package, ["onnx"])
    told: list[int] = []

    def tell() -> None:
        told.append(model.gpu_memory)
        model.when_memory_changes(tell)

    model.when_memory_changes(tell)
    at_rest = model.gpu_memory
    assert at_rest >= 500 << 20, "CUDA's own context"
    model.predict(image(1, 3, 32, 32))
    assert told == []
    model.predict(image(1, 3, 800, 800))
    assert told == [at_rest + (3 << 30)]
    model._give_back()
    assert told[1:] == [at_rest]


def test_nvmls_word_counts_where_it_has_one(card: FakeCard, tmp_path: Path) -> None:
    boot = Boot(tmp_path, tmp_path, run_timeout=1, debug=False)
    (boot.processes / MODELS).mkdir(parents=True)
    records = Records(boot, MODELS)
    record = records.begin("a")
    records.opened("a", record, "onnx", "cuda:0", "exact", gpu_memory=700)
    no_triton: Any = None
    loader = Loader(boot, no_triton)
    assert loader.processes()["a"].gpu_memory == 700, "in a container NVML has other ids"
    card.by_process[record.pid] = 900
    process = loader.processes()["a"]
    assert (process.gpu_memory, process.details) == (900, "exact")
    card.card = replace(H200, is_virtual=True)
    assert loader.processes()["a"].gpu_memory == 700


def test_the_driver_is_asked(card: FakeCard) -> None:
    assert gpu.gpus() == 1 and gpu.cuda_cards() == [H200] and gpu.cuda_version() == (13, 0)
    assert gpu.card_memory(0) == (H200.memory - card.used, H200.memory)


@pytest.mark.parametrize(("visible", "found"), [(None, [0]), ("0", [0]), ("1", []), ("", [])])
def test_only_cards_that_cuda_may_see_are_offered(
    card: FakeCard, monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[int]
) -> None:
    """The management library itself knows nothing of CUDA_VISIBLE_DEVICES."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    offered = gpu.cards()
    assert [each.index for each in offered] == found
    assert all(each.name == H200.name and each.free == H200.memory - card.used for each in offered)


def test_an_error_says_what_is_known_of_the_card(card: FakeCard, package: Package) -> None:
    card.fails = lambda shape: NO_CUDNN
    with pytest.raises(WeightsFail, match=r"On this machine, .* built for the CPU"):  # as this environment is
        pipeline(package, ["onnx"], accelerator="cuda")
