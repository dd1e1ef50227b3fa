"""What has to be right before Triton starts."""

from __future__ import annotations

import time
from pathlib import Path

import numpy
import pytest
from bioengine_runner import launch
from bioengine_runner.checks import NumpyTooNew, SecretMissing, StartError, check_numpy, triton_version
from bioengine_runner.settings import Settings


def settings(folder: Path, **more: object) -> Settings:
    paths = {name: folder / name for name in ("tritonserver", "backends", "model_repository", "store", "run_dir")}
    return Settings(**{**paths, **more})  # type: ignore[arg-type]


def triton(folder: Path, version: str | None) -> Path:
    """A Triton's program, laid out as in NVIDIA's image; without a version as in the wheel."""
    program = folder / "bin" / "tritonserver"
    program.parent.mkdir(exist_ok=True)
    program.touch()
    if version is not None:
        (folder / "TRITON_VERSION").write_text(version)
    return program


@pytest.mark.parametrize(("text", "version"), [("2.51.0\n", (2, 51)), ("2.73.0", (2, 73)), ("unknown", (0, 0)), (None, (0, 0))])
def test_the_version_of_a_triton(tmp_path: Path, text: str | None, version: tuple[int, int]) -> None:
    assert triton_version(triton(tmp_path, text)) == version


@pytest.mark.parametrize(
    ("version", "numpy_version", "fits"),
    [
        ("2.51.0", "1.26.4", True),
        ("2.73.0", "1.26.4", True),
        ("2.51.0", "2.4.6", False),
        (None, "2.4.6", False),
        ("2.53.0", "2.4.6", True),
    ],
)
def test_numpy_has_to_fit_triton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, numpy_version: str, fits: bool
) -> None:
    monkeypatch.setattr(numpy, "__version__", numpy_version)
    program = triton(tmp_path, version)
    if fits:
        check_numpy(program)
    else:
        with pytest.raises(NumpyTooNew, match=numpy_version):
            check_numpy(program)


def test_this_environment_has_a_numpy_that_every_triton_can_use(tmp_path: Path) -> None:
    check_numpy(triton(tmp_path, None))


def test_the_secret_in_a_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    # Time passes by the looks at the clock alone, and the server makes the secret after some.
    looks = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(looks)))
    monkeypatch.setattr(time, "sleep", lambda _: file.write_text("s" * 40 + "\n") if next(looks) > 20 else None)
    assert launch.read_secret(settings(tmp_path, triton_secret_file=file)) == "s" * 40
    file.unlink()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(SecretMissing, match="does not exist after 60 s"):
        launch.read_secret(settings(tmp_path, triton_secret_file=file))
    file.write_text("short")
    with pytest.raises(SecretMissing, match="less than 32"):
        launch.read_secret(settings(tmp_path, triton_secret_file=file))
    with pytest.raises(SecretMissing, match="are not set"):
        launch.read_secret(settings(tmp_path))
    assert launch.read_secret(settings(tmp_path, triton_secret="t" * 32)) == "t" * 32


def test_settings_that_cannot_be_used_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOENGINE_RUN_TIMEOUT", "long")
    with pytest.raises(StartError) as error:
        launch.read_settings()
    assert "BIOENGINE_RUN_TIMEOUT" in str(error.value) and "BIOENGINE_STORE" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
