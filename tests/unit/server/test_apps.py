"""Apps are installed whole or not at all, over nothing that is there, and from files that the admin names."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.apps.catalogue import APP_MODELS, APPS, app_named
from bioengine_server.apps.errors import (
    AppExists,
    AppNameTaken,
    AppNotInstalled,
    NoEnvironment,
    NoSuchApp,
    NotAnApp,
    WeightsMissing,
    WeightsNotUsable,
)
from bioengine_server.apps.install import check_installable, install, installed, uninstall
from bioengine_server.apps.weights import AppWeights, weights_of_files, weights_of_model
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import StoredModel

from tests.stack.harness import ENVIRONMENTS, ROOT, command, python
from tests.unit.contract.packages import manifest

BESTFITTING, CELLPOSE, STARDIST = (APPS[name] for name in ("bestfitting", "cellpose", "stardist"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with the inputs and outputs of the classifier."""
    file = tmp_path_factory.mktemp("classifier") / "small.onnx"
    make = (
        f"from pathlib import Path; from tests.packages.objects import write_bestfitting; write_bestfitting(Path({str(file)!r}))"
    )
    subprocess.run([python("runner"), "-c", make], cwd=ROOT, check=True)
    return file


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", environments=ENVIRONMENTS)


def test_every_app_has_its_triton_model() -> None:
    assert {app.triton_model for app in APPS.values()} == {folder.name for folder in APP_MODELS.iterdir()}
    for each in APPS.values():
        config = (APP_MODELS / each.triton_model / "config.pbtxt").read_text()
        assert ("EXECUTION_ENV_PATH" in config) is (each.environment is not None)
        assert app_named(each.name) is app_named(each.triton_model) is each
    with pytest.raises(NoSuchApp, match="Did you mean 'cellpose'"):
        app_named("celpose")


def test_an_app_is_installed_listed_and_removed(settings: Settings, classifier: Path) -> None:
    folder = install(BESTFITTING, weights_of_files(BESTFITTING, [str(classifier)]), settings)
    assert folder == settings.triton_models / "bestfitting-inceptionv3-single-cell"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "1/model.py", "1/weights/network.onnx", "app.json", "config.pbtxt",
    ]  # fmt: skip
    assert [(each.app.name, each.weights, each.works) for each in installed(settings)] == [
        ("bestfitting", ("network.onnx",), True)
    ]
    with pytest.raises(AppExists, match="nothing there is overwritten"):
        install(BESTFITTING, AppWeights({"network.onnx": classifier}, "here"), settings)
    assert uninstall(BESTFITTING, settings) == folder
    assert not any(settings.triton_models.iterdir()) and not list(installed(settings))
    with pytest.raises(AppNotInstalled, match=r"no .*bestfitting"):
        uninstall(BESTFITTING, settings)


def test_weights_that_cannot_be_used_leave_nothing_behind(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsNotUsable, match=r"Nothing was installed.*wrong\.onnx cannot be used.*Expected the ONNX file"):
        install(BESTFITTING, AppWeights({"network.onnx": tmp_path / "wrong.onnx"}, "here"), settings)
    assert not any(settings.triton_models.iterdir())


def test_a_folder_of_the_admins_is_neither_replaced_nor_removed(settings: Settings, classifier: Path, tmp_path: Path) -> None:
    folder = settings.triton_models / BESTFITTING.triton_model
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text("mine")
    with pytest.raises(AppExists):
        install(BESTFITTING, AppWeights({"network.onnx": classifier}, "here"), settings)
    with pytest.raises(NotAnApp, match="was not made by"):
        uninstall(BESTFITTING, settings)
    assert (folder / "config.pbtxt").read_text() == "mine"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "app.json").write_text("{}")
    (settings.triton_models / "stardist").symlink_to(elsewhere)
    with pytest.raises(NotAnApp):
        uninstall(STARDIST, settings)
    assert (elsewhere / "app.json").exists()


def test_an_environment_whose_name_triton_does_not_take_is_refused(settings: Settings, tmp_path: Path) -> None:
    odd = settings.model_copy(update={"environments": tmp_path / "my environments"})
    with pytest.raises(NoEnvironment, match="Set BIOENGINE_ENVIRONMENTS to a folder without spaces"):
        check_installable(CELLPOSE, odd)
    check_installable(BESTFITTING, odd)


def test_a_name_that_a_stored_model_has_is_refused(settings: Settings) -> None:
    (settings.store / "stardist").mkdir(parents=True)
    with pytest.raises(AppNameTaken, match="models remove stardist"):
        check_installable(STARDIST, settings)


def test_files_are_named_by_the_admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cyto, nuclei = tmp_path / "cyto3", tmp_path / "a=b"
    for file in (cyto, nuclei):
        file.touch()
    found = weights_of_files(CELLPOSE, [str(cyto), f"nuclei={nuclei}"])
    assert found.files == {"cyto.pth": cyto, "nuclei.pth": nuclei}
    assert weights_of_files(CELLPOSE, [str(nuclei)]).files == {"cyto.pth": nuclei}, "a path may have an equals sign"
    monkeypatch.chdir(tmp_path)
    assert weights_of_files(CELLPOSE, ["a=b"]).files == {"cyto.pth": Path("a=b")}, "nor need it be absolute"
    assert weights_of_files(CELLPOSE, ["nuclei=a=b"]).files == {"nuclei.pth": Path("a=b")}
    for each, named, error, problem in (
        (CELLPOSE, [], WeightsMissing, "--weights TYPE=FILE"),
        (STARDIST, [], WeightsMissing, "--weights FILE or --model ID"),
        (CELLPOSE, [str(cyto), str(nuclei)], WeightsNotUsable, "Give each its type"),
        (STARDIST, [str(cyto), str(nuclei)], WeightsNotUsable, "has one file with weights, but 2 were given"),
        (STARDIST, [str(tmp_path / "not there")], WeightsNotUsable, "There is no file"),
    ):
        with pytest.raises(error, match=problem):
            weights_of_files(each, named)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"thresholds.json": {"prob": 0.48, "nms": 0.3}}, {"prob_thresh": 0.48, "nms_thresh": 0.3}),
        ({"config.json": {"n_rays": 32, "grid": [2, 2]}}, {"grid": [2, 2]}),
        ({"config.json": {"grid": [2, 2]}, "thresholds.json": [1]}, {}),
    ],
)
def test_stardists_own_files_beside_the_network_are_read(tmp_path: Path, files: dict[str, Any], expected: dict[str, Any]) -> None:
    (tmp_path / "network.onnx").touch()
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert weights_of_files(STARDIST, [str(tmp_path / "network.onnx")]).options == expected


def test_weights_of_stored_models(tmp_path: Path) -> None:
    from bioengine_contract.manifest import Weights

    weights = {"onnx": Weights("net.onnx", "0" * 64)}
    rdf = {"license": "MIT", "config": {"stardist": {"thresholds": {"prob": 0.48, "nms": 0.3}}}}
    found = weights_of_model(STARDIST, StoredModel(manifest(weights=weights, rdf=rdf), tmp_path, True))
    assert found.files == {"network.onnx": tmp_path / "net.onnx"} and found.licence == "MIT"
    assert found.options == {"prob_thresh": 0.48, "nms_thresh": 0.3}
    several = {"onnx": Weights("net.onnx", "0" * 64, external_data="net.data")}
    for each, model, problem in (
        (CELLPOSE, manifest(weights=weights, rdf=rdf), "takes files only"),
        (STARDIST, manifest(rdf=rdf), "has no ONNX weights"),
        (STARDIST, manifest(weights=several, rdf=rdf), "in several files"),
        (STARDIST, manifest(weights=weights), "no `config.stardist`"),
    ):
        with pytest.raises(WeightsNotUsable, match=problem):
            weights_of_model(each, StoredModel(model, tmp_path, True))


def test_the_licence_is_told_and_has_to_be_agreed_to(settings: Settings, classifier: Path) -> None:
    arguments = ["apps", "install", "bestfitting", "--weights", str(classifier), "--home", str(settings.home)]
    refused = command(*arguments)
    assert refused.exit_code == 1 and "Weights have a licence of their own" in refused.output
    assert "If you agree, add --accept-licence" in refused.output and not settings.triton_models.exists()
    environment = {"BIOENGINE_ENVIRONMENTS": str(ENVIRONMENTS)}
    accepted = command(*arguments, "--accept-licence", **environment)
    assert accepted.exit_code == 0, accepted.output
    assert "model_name='bestfitting-inceptionv3-single-cell'" in accepted.output
    listed = command("apps", "list", "--home", str(settings.home), **environment).output.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [
        ["cellpose", "cellpose-python", "no"],
        ["stardist", "stardist", "no"],
        ["bestfitting", "bestfitting-inceptionv3-single-cell", "yes"],
    ]


def test_what_a_killed_installation_has_left_is_removed(settings: Settings, classifier: Path) -> None:
    left, held = (settings.triton_models / f".bioengine-app-{BESTFITTING.triton_model}-{name}" for name in ("left", "held"))
    of_the_admin = settings.triton_models / f".{BESTFITTING.triton_model}-old"
    for folder in (left, held, of_the_admin):
        (folder / "1").mkdir(parents=True)
    descriptor = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        install(BESTFITTING, AppWeights({"network.onnx": classifier}, "here"), settings)
    finally:
        os.close(descriptor)
    assert not left.exists() and of_the_admin.is_dir()
    assert held.is_dir(), "another one that is at work is left alone"


def test_a_network_with_tensors_elsewhere_is_refused(
    settings: Settings, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioengine_server.apps.install._check", lambda *arguments: None)
    outside = classifier.read_bytes() + bytes.fromhex("3a0c 2a0a 6a08 0a01") + b"l" + bytes.fromhex("1203") + b"/it"
    (tmp_path / "outside.onnx").write_bytes(outside)
    with pytest.raises(WeightsNotUsable, match=r"outside\.onnx keeps tensors in other files"):
        install(BESTFITTING, AppWeights({"network.onnx": tmp_path / "outside.onnx"}, "here"), settings)
    assert not any(settings.triton_models.iterdir())
