"""Packages as Finder, Windows and people make them: imported as what they mean, or refused with the name of what is wrong."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from bioengine_contract.manifest import Weights
from bioengine_server.store.description import PackageTooNew
from bioengine_server.store.errors import InvalidPackage, NotAPackage
from bioengine_server.store.external_data import check_onnx
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.package import copy_package, hash_files
from bioengine_server.store.settle import FilesMissing, settle
from bioimageio.spec import InvalidDescr, load_description

from tests.packages.foreign import foreign_zip, onnx_outside, with_long_names, with_weights_named
from tests.stack.harness import bioengine

OLD, NEW = "old-otter", "conscientious-seashell"
UMLAUT = "Gewichte-für-Zellen.onnx"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home" / "models")


@pytest.fixture
def make(packages: Path, tmp_path: Path) -> Callable[..., Path]:
    """A zip of a package of the tests, changed as `foreign_zip` is told."""
    return lambda id=OLD, **how: foreign_zip(packages / id, tmp_path / "foreign.zip", **how)


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_files_that_are_called_as_ours(make: Callable[..., Path], store: ModelStore, named: bool) -> None:
    """They stay, by other names; what the store itself has written beside a package is no part of it."""
    own = {"reports/fig.png": b"a figure", "model.json": b'{"id": "its own"}', "reports-2/x": b"x", "reports/a/b.txt": b"b"}
    change = (lambda rdf: rdf.update(attachments={"files": list(own)})) if named else (lambda rdf: None)
    model = store.import_package(make(change=change, more=own))
    now = ["reports-3/fig.png", "model-2.json", "reports-2/x", "reports-3/a/b.txt"]
    assert [(model.folder / name).read_bytes() for name in now] == list(own.values())
    assert description(model).get("attachments") == ({"files": now} if named else None)
    assert set(now) < set(model.manifest.files) and "model.json" not in model.manifest.files
    (model.folder / "reports").mkdir()
    (model.folder / "reports" / "test.json").write_text("{}")
    assert store.import_package(model.folder, "again").manifest.files == model.manifest.files


@pytest.mark.parametrize("name", ["model.json/x", "reports", "Model.json", "Reports/x"])
def test_other_things_that_are_called_as_ours(make: Callable[..., Path], store: ModelStore, name: str) -> None:
    model = store.import_package(make(change=lambda rdf: rdf.update(attachments={"files": [name]}), more={name: b"x"}))
    (now,) = description(model)["attachments"]["files"]
    assert "-2" in now and (model.folder / now).read_bytes() == b"x"


def description(model: StoredModel) -> dict[str, Any]:
    rdf: dict[str, Any] = yaml.safe_load((model.folder / "rdf.yaml").read_text())
    return rdf


def assert_whole(model: StoredModel, package: Path) -> None:
    """bioimageio.spec finds all files that the stored description names, and the weights are those of the package."""
    found = load_description(model.folder / "rdf.yaml", perform_io_checks=True)
    assert not isinstance(found, InvalidDescr), found
    weights = model.manifest.weights["onnx"]
    assert (model.folder / weights.source).read_bytes() == (package / "weights.onnx").read_bytes()
    assert model.manifest.unsupported_weights == ()


def test_a_zip_of_the_finder(make: Callable[..., Path], store: ModelStore, packages: Path) -> None:
    junk = (
        "__MACOSX/._otter",
        "__MACOSX/otter/._rdf.yaml",
        "__MACOSX/otter/._my.rdf.yaml",
        "otter/.DS_Store",
        "otter/._README.md",
    )
    model = store.import_package(make(names=lambda name: f"otter/{name}", more=dict.fromkeys(junk, b"x")))
    assert model.manifest.files == store.import_package(packages / OLD, "other").manifest.files


def test_a_folder_that_was_on_other_computers(store: ModelStore, packages: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packages / OLD, tmp_path / "otter"))
    for name in (".DS_Store", "._rdf.yaml", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"x")
    assert store.import_package(folder).manifest.files == store.import_package(packages / OLD, "other").manifest.files


@pytest.mark.parametrize("source", ["w\\weights.onnx", "w/weights.onnx", "./w/weights.onnx"])
@pytest.mark.parametrize("entry", ["w\\weights.onnx", "w/weights.onnx"])
def test_backslashes(make: Callable[..., Path], store: ModelStore, packages: Path, source: str, entry: str) -> None:
    archive = make(
        change=with_weights_named(source),
        names=lambda name: entry if name == "weights.onnx" else name,
        more={"empty\\": b""},
    )
    model = store.import_package(archive)
    assert model.manifest.weights["onnx"].source == "w/weights.onnx"
    assert_whole(model, packages / OLD)


@pytest.mark.parametrize("entry", ["C:\\weights.onnx", "\\\\server\\weights.onnx", "\\weights.onnx", "a\\..\\..\\weights.onnx"])
def test_backslashes_lead_nowhere_else(make: Callable[..., Path], store: ModelStore, entry: str) -> None:
    with pytest.raises(NotAPackage, match="not a plain file inside it"):
        store.import_package(make(more={entry: b"x"}))


@pytest.mark.parametrize("in_description", ["NFC", "NFD"])
@pytest.mark.parametrize("in_zip", ["NFC", "NFD", "NFC without a flag", "NFD without a flag", "cp437"])
def test_umlauts(make: Callable[..., Path], store: ModelStore, packages: Path, in_description: Any, in_zip: str) -> None:
    """However they are written, the stored names are ASCII: whatever opens them finds them."""
    form, _, unsaid = in_zip.partition(" ")
    name: str | bytes = UMLAUT.encode("cp437") if form == "cp437" else unicodedata.normalize(form, UMLAUT)  # type: ignore[arg-type]
    if unsaid and isinstance(name, str):
        name = name.encode()
    archive = make(
        change=with_weights_named(unicodedata.normalize(in_description, UMLAUT)),
        names=lambda file: name if file == "weights.onnx" else file,
    )
    model = store.import_package(archive)
    assert model.manifest.weights["onnx"].source == "Gewichte-fur-Zellen.onnx"
    assert all(file.isascii() for file in model.manifest.files)
    assert_whole(model, packages / OLD)


FORMS = ["NFC", "NFD"]


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "folder"])
@pytest.mark.parametrize("on_disk", FORMS)
@pytest.mark.parametrize("in_description", FORMS)
@pytest.mark.parametrize("in_onnx", FORMS)
@pytest.mark.parametrize("way", ["{0}.onnx", "w/{0}.onnx", "{0}/{0}.onnx"])
def test_umlauts_in_names_of_external_data(
    packages: Path, tmp_path: Path, way: str, in_onnx: Any, in_description: Any, on_disk: Any, is_zip: bool
) -> None:
    """The file has the name by which the ONNX file reads it, beside that; everything else follows."""
    name = f"{way.format('dätä')}.data"
    onnx, data = onnx_outside(unicodedata.normalize(in_onnx, PurePosixPath(name).name)), b"numbers"
    files = {name.removesuffix(".data"): onnx, name: data}
    entries = {unicodedata.normalize(in_description, file): content for file, content in files.items()}
    source, external = [{"source": file, "sha256": sha256(content).hexdigest()} for file, content in entries.items()]
    archive = foreign_zip(
        packages / NEW,
        tmp_path / "foreign.zip",
        change=lambda rdf: rdf.update(weights={"onnx": {**source, "opset_version": 17, "external_data": external}}),
        more={unicodedata.normalize(on_disk, file): content for file, content in files.items()},
    )
    folder, settled = tmp_path / "folder", tmp_path / "settled"
    shutil.unpack_archive(archive, folder)
    copy_package(archive if is_zip else folder, settled, 1 << 30)
    raw = yaml.safe_load((settled / "rdf.yaml").read_text())
    settle("x", settled, raw, must_be_whole=True)
    entry = raw["weights"]["onnx"]
    assert (settled / entry["source"]).read_bytes() == onnx and PurePosixPath(entry["source"]).name == "data.onnx"
    stored = Weights(source=entry["source"], sha256=entry["sha256"], external_data=entry["external_data"]["source"])
    assert stored.external_data is not None and (settled / stored.external_data).read_bytes() == data
    assert check_onnx(settled, stored, hash_files(settled), raw) == stored, "the file that the ONNX file reads is this one"


@pytest.mark.parametrize("is_attachment", [True, False], ids=["attachment", "external_data"])
def test_a_zip_of_a_mac_with_external_data(packages: Path, store: ModelStore, tmp_path: Path, is_attachment: bool) -> None:
    name = unicodedata.normalize("NFD", "dätä.data")
    onnx, data = onnx_outside(name), {"source": name, "sha256": sha256(b"numbers").hexdigest()}

    def change(rdf: dict[str, Any]) -> None:
        entry = {"source": "m.onnx", "sha256": sha256(onnx).hexdigest(), "opset_version": 17}
        rdf["weights"] = {"onnx": {**entry, **({} if is_attachment else {"external_data": data})}}
        rdf["attachments"] = [data] if is_attachment else []

    archive = foreign_zip(packages / NEW, tmp_path / "mac.zip", change=change, more={"m.onnx": onnx, name: b"numbers"})
    model = store.import_package(archive)
    assert model.manifest.weights["onnx"].external_data == name and (model.folder / name).read_bytes() == b"numbers"
    assert store.import_package(model.folder).manifest.files == model.manifest.files


def test_names_that_become_the_same(make: Callable[..., Path], store: ModelStore, packages: Path) -> None:
    """Nothing is written over: a second file of a plain name gets a number."""
    archive = make(
        change=with_weights_named("细胞.onnx"),
        names=lambda name: "细胞.onnx" if name == "weights.onnx" else name,
        more={"__.onnx": b"another", "ü.txt": b"nobody names it"},
    )
    model = store.import_package(archive)
    assert model.manifest.weights["onnx"].source == "__-2.onnx" and (model.folder / "__.onnx").read_bytes() == b"another"
    assert_whole(model, packages / OLD)


def test_names_that_differ_in_their_case_alone(make: Callable[..., Path], store: ModelStore) -> None:
    model = store.import_package(make(more={"Readme.MD": b"another", "WEIGHTS.onnx": b"third"}))
    assert (model.folder / "Readme.MD").read_bytes() == b"another" and (model.folder / "WEIGHTS.onnx").read_bytes() == b"third"
    assert b"old otter" in (model.folder / "README.md").read_bytes()
    for name in ("RDF.yaml", "Model.json", "WEIGHTS.ONNX/x"):
        with pytest.raises(NotAPackage, match="two entries of the same name"):
            store.import_package(make(more={"model.json": b"{}", "WEIGHTS.ONNX": b"x", name: b"x"}), "other")


@pytest.mark.parametrize("name", ["my_unet.rdf.yaml", "my_unet.bioimageio.yaml", "bioimageio.yaml", "model.yaml", "x.model.yaml"])
def test_names_of_descriptions(make: Callable[..., Path], store: ModelStore, packages: Path, tmp_path: Path, name: str) -> None:
    model = store.import_package(make(names=lambda file: name if file == "rdf.yaml" else file))
    assert_whole(model, packages / OLD)
    folder = Path(shutil.copytree(packages / OLD, tmp_path / "folder"))
    (folder / "rdf.yaml").rename(folder / name)
    assert store.import_package(folder, "other").manifest.name == model.manifest.name


def test_a_description_alone_is_no_package(store: ModelStore, packages: Path) -> None:
    with pytest.raises(NotAPackage, match="give the folder that contains it"):
        store.import_package(packages / OLD / "rdf.yaml")


@pytest.mark.parametrize("older", ["model.yaml", "bioimageio.yaml", "x.model.yaml"])
def test_rdf_yaml_counts_before_what_is_older(make: Callable[..., Path], store: ModelStore, packages: Path, older: str) -> None:
    """As for bioimageio.spec, which opens the same one."""
    model = store.import_package(make(more={older: b"name: an older description\n"}))
    assert model.manifest.name == "old otter" and (model.folder / older).is_file()
    assert_whole(model, packages / OLD)


def test_sources_that_are_urls_or_of_the_author_s_disk(make: Callable[..., Path], store: ModelStore, packages: Path) -> None:
    def change(rdf: dict[str, Any]) -> None:
        with_weights_named("https://zenodo.org/api/files/abc/weights.onnx?download=1")(rdf)
        rdf["test_inputs"] = ["/home/somebody/models/otter/test_input.npy"]
        rdf["test_outputs"] = ["C:\\Users\\somebody\\test_output.npy"]
        rdf["documentation"] = "https://zenodo.org/api/files/abc/README.md"
        rdf["covers"] = ["https://example.com/cover.png"]

    model = store.import_package(make(change=change))
    assert model.manifest.test_inputs == ("test_input.npy",) and model.manifest.test_outputs == ("test_output.npy",)
    assert description(model)["documentation"] == "README.md"
    assert description(model)["covers"] == ["https://example.com/cover.png"], "what does not lie beside it may stay where it is"
    assert model.manifest.weights["onnx"].source == "weights.onnx"


def test_a_file_beside_with_another_content_than_the_url_has(make: Callable[..., Path], store: ModelStore) -> None:
    archive = make(
        change=with_weights_named("https://zenodo.org/api/files/abc/other.onnx"),
        more={"other.onnx": b"not these weights"},
    )
    with pytest.raises(
        FilesMissing, match=r"Its file 'other\.onnx' is a different file or is damaged: its SHA-256 is not the one"
    ):
        store.import_package(archive)


def test_files_of_other_places_that_have_the_name_of_one_beside(make: Callable[..., Path], store: ModelStore) -> None:
    """What cannot be told from others by its name stays where it is."""
    keras = {"source": "https://example.com/keras/weights.onnx", "tensorflow_version": "2.1"}
    torchscript = {"source": "https://example.com/w.pt", "sha256": "0" * 64, "pytorch_version": "2.0"}
    sample, covers = "https://example.com/sample/test_input.npy", ["https://example.com/a/c.png", "https://example.com/b/c.png"]

    def change(rdf: dict[str, Any]) -> None:
        rdf["weights"] |= {"keras_hdf5": keras, "torchscript": torchscript}
        rdf |= {"sample_inputs": [sample], "sample_outputs": ["test_output.npy"], "covers": covers}

    model = store.import_package(make(change=change, more={"c.png": b"of one of them", "w.pt": b"other weights"}))
    rdf = description(model)
    assert rdf["weights"]["keras_hdf5"] == keras and rdf["weights"]["torchscript"] == torchscript
    assert rdf["sample_inputs"] == [sample] and rdf["covers"] == covers
    assert list(model.manifest.weights) == ["onnx"]


def test_paths_on_a_disk_that_end_alike(make: Callable[..., Path], store: ModelStore) -> None:
    paths = ["/home/somebody/a/cover.png", "/home/somebody/b/cover.png"]
    with pytest.raises(FilesMissing, match=r"/a/cover\.png' \(cover\), '/home/somebody/b/cover\.png"):
        store.import_package(make(change=lambda rdf: rdf.update(covers=paths), more={"cover.png": b"of one of them"}))


def test_urls_of_zenodo(make: Callable[..., Path], store: ModelStore, packages: Path) -> None:
    files = "https://zenodo.org/api/records/1/files"

    def change(rdf: dict[str, Any]) -> None:
        with_weights_named(f"{files}/weights.onnx/content")(rdf)
        rdf["documentation"] = f"{files}/README.md/content"

    model = store.import_package(make(change=change, more={"content": b"something else"}))
    assert description(model)["documentation"] == "README.md"
    assert_whole(model, packages / OLD)


@pytest.mark.parametrize("id", [OLD, NEW])
def test_weights_that_are_null(make: Callable[..., Path], store: ModelStore, id: str) -> None:
    def change(rdf: dict[str, Any]) -> None:
        with_weights_named("weights.onnx")(rdf)
        rdf["weights"] |= {"torchscript": None, "keras_hdf5": None, "pytorch_state_dict": None}

    manifest = store.import_package(make(id, change=change)).manifest
    assert list(manifest.weights) == ["onnx"] and manifest.unsupported_weights == ()
    assert list(manifest.rdf["weights"]) == ["onnx"], "of which clients read the sources"


MISSING = {
    "'weights.onnx' (weights)": {"names": lambda name: None if name == "weights.onnx" else name},
    "'nested/weights.onnx' (weights)": {"change": with_weights_named("nested/weights.onnx")},
    "'../weights.onnx' (weights)": {"change": with_weights_named("../weights.onnx")},
    "'/etc/passwd' (weights)": {"change": with_weights_named("/etc/passwd")},
    "'https://example.com/away.onnx' (weights)": {"change": with_weights_named("https://example.com/away.onnx")},
    "'test_input.npy' (test tensor)": {"names": lambda name: None if name == "test_input.npy" else name},
    "'README.md' (documentation)": {"names": lambda name: None if name == "README.md" else name},
    "'cover.png' (cover)": {"change": lambda rdf: rdf.update(covers=["cover.png"])},
    "'labels.txt' (attachment)": {
        "change": lambda rdf: rdf["weights"]["onnx"].update(attachments={"files": ["labels.txt"]}),
    },
    "'notes.txt' (attachment)": {"change": lambda rdf: rdf.update(attachments={"files": ["notes.txt"]})},
}


@pytest.mark.parametrize("named", MISSING)
def test_a_file_that_is_named_and_not_there(make: Callable[..., Path], store: ModelStore, named: str) -> None:
    with pytest.raises(FilesMissing) as caught:
        store.import_package(make(**MISSING[named]))
    assert f"its description names {named}, which the package lacks" in str(caught.value)
    assert store.models() == []


def test_the_error_is_told_with_a_status(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(names=lambda name: "Weights.ONNX" if name == "weights.onnx" else name)
    attempt = bioengine("models", "import", str(archive), "--home", str(tmp_path / "home"))
    assert attempt.returncode == 1 and attempt.stdout == ""
    assert "It has 'Weights.ONNX', which differs only in case" in attempt.stderr and "Traceback" not in attempt.stderr


def test_weights_by_url_beside_those_that_are_there(make: Callable[..., Path], store: ModelStore) -> None:
    def change(rdf: dict[str, Any]) -> None:
        rdf["weights"]["torchscript"] = {"source": "https://example.com/w.pt", "sha256": "0" * 64, "pytorch_version": "2.0"}

    manifest = store.import_package(make(change=change)).manifest
    assert list(manifest.weights) == ["onnx"] and manifest.unsupported_weights == ("torchscript",)


def test_long_names_of_tensors(make: Callable[..., Path], store: ModelStore) -> None:
    manifest = store.import_package(make(change=with_long_names)).manifest
    (input,), (output,) = manifest.inputs, manifest.outputs
    assert (input.id, output.id) == ("t" * 32, "t" * 30 + "_2")
    assert manifest.rdf["outputs"][0]["shape"]["reference_tensor"] == manifest.rdf["inputs"][0]["name"] == input.id


def test_what_is_written_anew_says_the_same(make: Callable[..., Path], store: ModelStore) -> None:
    """Words, numbers and dates that versions of YAML differ in are what bioimageio.spec takes them for."""
    said = "{word: no, octal: 012, number: 1e-3, time: 1:30, date: 2026-01-01, nothing: ~, text: '0x1F'}"
    rewritten = make(change=with_weights_named("w\\weights.onnx"), names=lambda n: f"w/{n}" if n == "weights.onnx" else n)
    folder = rewritten.parent / "said"
    shutil.unpack_archive(rewritten, folder)
    with open(folder / "rdf.yaml", "a") as file:
        file.write(f"config: {said}\n")
    before: Any = load_description(folder / "rdf.yaml", perform_io_checks=False).config
    after: Any = load_description(store.import_package(folder).folder / "rdf.yaml", perform_io_checks=False).config
    assert {**before, "date": "2026-01-01"} == after and after["number"] == 1e-3 and after["word"] == "no"


def tolerance(*entries: dict[str, Any], version: str = "0.5.14") -> Callable[[dict[str, Any]], None]:
    def change(rdf: dict[str, Any]) -> None:
        rdf["format_version"] = version
        rdf["config"]["bioimageio"]["reproducibility_tolerance"] = list(entries)

    return change


def test_tolerances_of_a_newer_format(make: Callable[..., Path], store: ModelStore) -> None:
    discrete = {"output_ids": "any_discrete_output", "mismatched_elements_per_million": 500}
    continuous = {"output_ids": "any_continuous_output", "absolute_tolerance": 0.002}
    model = store.import_package(make(NEW, change=tolerance(discrete, continuous)))
    # The one output is of floats.
    assert description(model)["config"]["bioimageio"]["reproducibility_tolerance"] == [{**continuous, "output_ids": ["mask"]}]
    found = load_description(model.folder / "rdf.yaml", perform_io_checks=True)
    (entry,) = found.config.bioimageio.reproducibility_tolerance
    assert entry.output_ids == ["mask"] and entry.absolute_tolerance == 0.002


def test_a_tolerance_for_discrete_outputs(make: Callable[..., Path], store: ModelStore) -> None:
    def change(rdf: dict[str, Any]) -> None:
        tolerance({"output_ids": "any_discrete_output"})(rdf)
        rdf["outputs"][0]["data"] = {"type": "uint8"}

    (entry,) = description(store.import_package(make(NEW, change=change)))["config"]["bioimageio"]["reproducibility_tolerance"]
    assert entry == {
        "output_ids": ["mask"], "relative_tolerance": 0, "absolute_tolerance": 0, "mismatched_elements_per_million": 1000
    }  # fmt: skip


def test_what_only_a_newer_server_reads(make: Callable[..., Path], store: ModelStore) -> None:
    """Says so of a package of a newer format, and only of such a one."""
    unknown = {"output_ids": "any_output_of_tomorrow"}
    with pytest.raises(
        PackageTooNew, match=r"This server is older .* format 0\.5\.99, but this server reads formats up to 0\.5\."
    ):
        store.import_package(make(NEW, change=tolerance(unknown, version="0.5.99")))
    with pytest.raises(InvalidPackage, match="Correct rdf"):
        store.import_package(make(NEW, change=tolerance(unknown, version="0.5.4")))
