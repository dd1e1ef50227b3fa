"""`./bioengine models`: import, list, remove."""

from __future__ import annotations

import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.mirror import Mirror
from tests.stack.harness import Client, Stack, bioengine, command, copy_package, example_input


def zipped(folder: Path, target: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"{inside}{file.name}")
    return target


def test_import_list_remove(packages: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    assert "No models yet" in command("models", "list", "--home", home).stdout
    imported = command("models", "import", str(packages / "conscientious-seashell"), "--home", home)
    assert imported.exit_code == 0 and "Imported conscientious-seashell 1.0.0" in imported.stdout
    archive = zipped(packages / "two-inputs", tmp_path / "two.zip", inside="two-inputs/")
    assert command("models", "import", str(archive), "--id", "pair", "--home", home).exit_code == 0
    document = json.loads((tmp_path / "home" / "models" / "conscientious-seashell" / "1.0.0" / "model.json").read_text())
    assert set(document["weights"]) == {"onnx", "torchscript"} and document["triton_config"]["max_batch_size"] == 0
    listing = command("models", "list", "--home", home).stdout
    assert "conscientious-seashell" in listing and "pair" in listing and "onnx, torchscript" in listing
    removed = command("models", "remove", "pair", "--home", home)
    assert "Removed pair/1.0.0" in removed.stdout
    assert "pair" not in command("models", "list", "--home", home).stdout
    assert not (tmp_path / "home" / "models" / "pair").exists()
    again = command("models", "remove", "pair", "--home", home)
    assert again.exit_code == 1 and "There is no model 'pair'" in again.stderr and "conscientious-seashell" in again.stderr


def test_errors_are_told_and_end_with_a_status(packages: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    for arguments, expected in [
        (["import", "/nowhere"], "there is no such folder or file"),
        (["import", str(packages / "old-otter"), "--id=../x"], "cannot be a model's id"),
        (["show", "old-otter"], "There is no model 'old-otter' in the store"),
        (["export", "old-otter"], "There is no model 'old-otter' in the store"),
        (["remove", "old-otter"], "There is no model 'old-otter' in the store"),
        (["test"], "Name a model to test, or all of them with --all"),
        (["pull", "huggingface/a/b"], "'huggingface/a/b' is not a model id"),
        (["pull", "affable-shark", "--offline"], "because this server is offline"),
    ]:
        attempt = command("models", *arguments, BIOENGINE_HOME=home)
        assert attempt.exit_code == 1 and expected in attempt.stderr, (arguments, attempt.stderr)
        assert isinstance(attempt.exception, SystemExit)


@pytest.mark.extended
def test_pull_show_test_export_and_prune(packages: Path, tmp_path: Path) -> None:
    """From one machine with a network to one without."""
    home, other = str(tmp_path / "home"), str(tmp_path / "other")
    with Mirror(packages) as mirror:
        mirror.documents["/children"] = [{"id": "old-otter", "type": "model", "manifest": {"name": "Old otter"}}]
        pulled = bioengine("models", "pull", "conscientious-seashell", "old-otter", BIOENGINE_HOME=home, **mirror.environment)
        assert pulled.returncode == 0, pulled.stderr
        assert "Stored conscientious-seashell 1.0.0" in pulled.stdout and "Stored old-otter" in pulled.stdout
        missing = command("models", "pull", "no-such-animal", BIOENGINE_HOME=home, **mirror.environment)
        assert missing.exit_code == 1 and "There is no model 'no-such-animal' in the collection" in missing.stderr
        assert "Old otter" in command("models", "search", "otter", **mirror.environment).stdout
    shown = command("models", "show", "conscientious-seashell", BIOENGINE_HOME=home).stdout
    assert "goes in: 'image', float32, with the axes batch (any number), channel (3 channels)" in shown
    assert "comes out: 'mask'" in shown and mirror.url in shown
    tested = bioengine("models", "test", "--all", BIOENGINE_HOME=home)
    assert tested.returncode == 0 and tested.stdout.count("passed") == 3, tested.stdout + tested.stderr
    report = tmp_path / "home" / "models" / "conscientious-seashell" / "1.0.0" / "reports" / "test.json"
    assert set(json.loads(report.read_text())) == {"onnx", "torchscript"}
    archive = tmp_path / "seashell.zip"
    assert command("models", "export", "conscientious-seashell", "-o", str(archive), BIOENGINE_HOME=home).exit_code == 0
    assert "already exists" in command("models", "export", "old-otter", "-o", str(archive), BIOENGINE_HOME=home).stderr
    assert command("models", "import", str(archive), BIOENGINE_HOME=other).exit_code == 0
    inputs = example_input(packages, "conscientious-seashell")
    with Stack(tmp_path / "other") as stack, stack.client() as client:
        there = client.run("conscientious-seashell", inputs)
        assert "because this server is offline" in client.run("two-inputs", inputs)["error"]
    np.testing.assert_allclose(there["outputs"][0], np.load(packages / "conscientious-seashell" / "test_output.npy"), atol=1e-3)
    pruned = command("models", "prune", "--keep-gb", "0", BIOENGINE_HOME=other)
    assert "Removed conscientious-seashell/1.0.0." in pruned.stdout
    assert "drawn-nuclei" in command("models", "list", BIOENGINE_HOME=other).stdout


@pytest.mark.extended
def test_what_was_downloaded_is_tested_by_its_own_tolerance(packages: Path, tmp_path: Path) -> None:
    """Of packages whose other weights, covers and attachments are not stored, and whose outputs are as far off as they say."""
    home = str(tmp_path / "home")
    collection = Path(shutil.copytree(packages, tmp_path / "collection"))
    new, old = collection / "conscientious-seashell", collection / "old-otter"
    for folder in (new, old):
        np.save(folder / "test_output.npy", np.load(folder / "test_output.npy") + np.float32(0.006))
    rdf = yaml.safe_load((new / "rdf.yaml").read_text())
    state_dict = {"source": "state.pt", "sha256": "0" * 64, "pytorch_version": "2.0", "architecture": {
        "callable": "Net", "source": "network.py", "sha256": "0" * 64
    }}  # fmt: skip
    rdf["weights"] = {"onnx": {**rdf["weights"]["onnx"], "parent": "pytorch_state_dict"}, "pytorch_state_dict": state_dict}
    rdf["outputs"][0]["test_tensor"] = {"source": "test_output.npy"}
    tolerance = {"absolute_tolerance": 0.009, "output_ids": "any_continuous_output", "weights_formats": ["onnx"]}
    rdf["config"]["bioimageio"]["reproducibility_tolerance"] = [{"output_ids": "any_discrete_output"}, tolerance]
    rdf |= {"format_version": "0.5.14", "covers": [{"source": "away.png"}], "attachments": [{"source": "paper.pdf"}]}
    (new / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    rdf = yaml.safe_load((old / "rdf.yaml").read_text())
    rdf["config"] = {"bioimageio": {"test_kwargs": {"onnx": {"absolute_tolerance": 0.009}}}}
    rdf |= {"covers": ["away.png"], "attachments": {"files": ["paper.pdf"]}}
    (old / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    with Mirror(collection) as mirror:
        pulled = command("models", "pull", new.name, old.name, BIOENGINE_HOME=home, **mirror.environment)
        assert pulled.exit_code == 0, pulled.stderr
    tested = command("models", "test", "--all", BIOENGINE_HOME=home)
    assert tested.exit_code == 0 and tested.stdout.count("passed") == 2, tested.stdout + tested.stderr


@pytest.mark.extended
def test_a_failing_model_is_told(packages: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    package = copy_package(packages, "conscientious-seashell", tmp_path)
    output = np.load(package / "test_output.npy")
    np.save(package / "test_output.npy", output + 1)
    rdf = yaml.safe_load((package / "rdf.yaml").read_text())
    rdf["outputs"][0]["test_tensor"] = {"source": "test_output.npy"}
    (package / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    assert command("models", "import", str(package), BIOENGINE_HOME=home).exit_code == 0
    tested = command("models", "test", "conscientious-seashell", BIOENGINE_HOME=home)
    assert tested.exit_code == 1 and tested.stdout.count("failed") == 2, tested.stdout


@pytest.mark.extended
def test_how_far_tiles_are_from_the_whole_is_told(all_kinds: Path, tmp_path: Path) -> None:
    """Where the model looks no further than its halo, where it does, and where there are no tiles."""
    home = str(tmp_path / "home")
    told = {}
    for id in ("conv-2d", "conv-2d-far", "conv-2d-fixed"):
        assert command("models", "import", str(all_kinds / id), BIOENGINE_HOME=home).exit_code == 0
        tested = command("models", "test", id, BIOENGINE_HOME=home)
        assert tested.exit_code == 0, tested.stdout + tested.stderr
        report = json.loads((tmp_path / "home" / "models" / id / "1.0.0" / "reports" / "test.json").read_text())
        assert set(report) == {"onnx", "torchscript"}
        told[id] = tested.stdout, {name: outcome["tiles"] for name, outcome in report.items()}
    for id in ("conv-2d", "conv-2d-far"):
        output, tiles = told[id]
        assert output.count("tiles (y 32, x 32) differ by at most") == 2, output
        assert all(of_format["tile"] == {"y": 32, "x": 32} for of_format in tiles.values())
    assert all(of_format["differences"]["features"] < 1e-5 for of_format in told["conv-2d"][1].values())
    test_output = np.load(all_kinds / "conv-2d-far" / "test_output.npy")
    for of_format in told["conv-2d-far"][1].values():
        difference = of_format["differences"]["features"]
        assert 1e-3 < difference < np.ptp(test_output)
        assert f"differ by at most {difference:.2g} from the whole" in told["conv-2d-far"][0]
    output, tiles = told["conv-2d-fixed"]
    assert output.count("tiles (y 64, x 64; halo y 8, x 8) differ by at most") == 2, output
    assert output.count("from tiles that lie elsewhere") == 2 and "inexact" not in output
    assert all(of_format["share"] < 1e-5 for of_format in tiles.values())


def test_the_halo_of_a_model_of_one_size_is_measured_at_import(all_kinds: Path, tmp_path: Path) -> None:
    """By the real model runner, confined; three convolutions look 3 pixels far."""
    home = str(tmp_path / "home")
    sentence = "tiles: halo of y 3, x 3 pixels, measured with its onnx weights on its test image"
    for arguments in (["import", str(all_kinds / "old-fixed")], ["show", "old-fixed"]):
        assert sentence in " ".join(command("models", *arguments, "--home", home).stdout.split())
    manifest = json.loads((tmp_path / "home" / "models" / "old-fixed" / "1.0.0" / "model.json").read_text())
    assert manifest["halo"]["pixels"] == {"y": 3, "x": 3} and manifest["halo"]["difference"] < 0.01


def test_files_without_a_hash_are_named(packages: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    package = copy_package(packages, "conscientious-seashell", tmp_path)
    rdf = yaml.safe_load((package / "rdf.yaml").read_text())
    del rdf["weights"]["torchscript"]["sha256"]
    (package / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    for arguments in (["import", str(package)], ["show", "conscientious-seashell"]):
        said = " ".join(command("models", *arguments, "--home", home).stdout.split())
        assert "no SHA-256 in the description: weights.pt; verified from now on against what came at import" in said


def test_versions(packages: Path, tmp_path: Path) -> None:
    """The plain id comes to mean another version by --replace alone; removing that gives the name back to the one before."""
    home = str(tmp_path / "home")
    first = packages / "old-otter"
    second = Path(shutil.copytree(first, tmp_path / "second"))
    (second / "rdf.yaml").write_text((second / "rdf.yaml").read_text().replace("version: 1.0.0", "version: 2.0.0"))
    assert command("models", "import", str(first), "--home", home).exit_code == 0
    aliases = tmp_path / "home" / "models" / "aliases.json"
    before = aliases.read_text()
    asked = command("models", "import", str(second), "--home", home)
    assert asked.exit_code == 1 and "The name 'old-otter' already means the package old-otter/1.0.0" in asked.stderr
    assert "--replace" in asked.stderr and "--id ID" in asked.stderr and aliases.read_text() == before
    assert command("models", "import", str(second), "--replace", "--home", home).exit_code == 0
    assert json.loads(aliases.read_text())["old-otter"] == "old-otter/2.0.0"
    assert "1.0.0 (older)" in command("models", "list", "--home", home).stdout
    assert command("models", "remove", "old-otter/2.0.0", "--home", home).exit_code == 0
    assert json.loads(aliases.read_text())["old-otter"] == "old-otter/1.0.0"


def test_a_model_is_there_as_soon_as_it_is_imported(stack: Stack, packages: Path) -> None:
    """And gone as soon as it is removed, while the server runs."""
    with stack.client() as client:
        inputs = example_input(packages, "old-otter")
        assert "No model 'new-otter'" in client.run("new-otter", inputs)["error"]
        command("models", "import", str(packages / "old-otter"), "--id", "new-otter", "--home", str(stack.home))
        assert client.run("new-otter", inputs)["success"]
        command("models", "remove", "new-otter", "--home", str(stack.home))
        assert "No model 'new-otter'" in client.run("new-otter", inputs)["error"]


@pytest.mark.extended
def test_a_model_is_downloaded_when_it_is_asked_for(packages: Path, tmp_path: Path) -> None:
    """By many clients at once; then by those who may; then the collection goes away.

    A model's configuration and description need no weights.
    """
    inputs = example_input(packages, "conscientious-seashell")
    expected = np.load(packages / "conscientious-seashell" / "test_output.npy")
    with Mirror(packages) as mirror:
        with Stack(tmp_path / "home", BIOENGINE_OFFLINE="0", **mirror.environment) as stack, stack.client() as client:
            config = client.triton.get_config(model_name="conscientious-seashell")
            assert config["input"][0]["dims"] == [-1, 3, -1, -1] and config["model_name"] == "conscientious-seashell"
            assert client.run("conscientious-seashell", None)["rdf"]["inputs"][0]["axes"] == "bcyx"
            assert mirror.count("weights.onnx") == 0
            with ThreadPoolExecutor(10) as pool:
                results = list(pool.map(lambda _: client.run("conscientious-seashell", inputs), range(10)))
            for result in results:
                np.testing.assert_allclose(result["outputs"][0], expected, atol=1e-3)
            assert mirror.count("weights.onnx") == 1
            error = client.run("no-such-animal", inputs)["error"]
            assert "There is no model 'no-such-animal' in the collection" in error and "It has: " in error
            listing = command("models", "list", BIOENGINE_HOME=str(stack.home)).stdout
            assert "just now" in listing
            pulled = command("models", "pull", "two-inputs", BIOENGINE_HOME=str(stack.home), **mirror.environment)
            assert pulled.exit_code == 0
    mirror = Mirror(packages)
    settings = {"BIOENGINE_OFFLINE": "0", "BIOENGINE_DOWNLOAD": "token", **mirror.environment}
    with Stack(tmp_path / "home", **settings) as stack, stack.client() as client:
        with mirror:
            who_may_cause_a_download(stack, client, packages, mirror)
        assert client.run("conscientious-seashell", inputs)["success"]
        assert client.run("two-inputs", example_input(packages, "two-inputs"))["success"]


def who_may_cause_a_download(stack: Stack, client: Client, packages: Path, mirror: Mirror) -> None:
    error = client.run("old-otter", example_input(packages, "old-otter"))["error"]
    assert "only clients with a token may have models downloaded" in error and "models pull old-otter" in error
    # What the client makes for itself is none of the admin's tokens.
    with stack.client(client.server.generate_token()) as same:
        assert same.run("old-otter", example_input(packages, "old-otter"))["error"] == error
    assert mirror.count("rdf.yaml") == 0
    with stack.client(stack.token("ada")) as ada:
        assert ada.run("old-otter", example_input(packages, "old-otter"))["success"]
