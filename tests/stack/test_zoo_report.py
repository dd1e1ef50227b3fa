"""`./bioengine zoo-report` on a collection on loopback, and on a folder of packages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.mirror import Mirror
from tests.stack.harness import bioengine

pytestmark = pytest.mark.extended


def test_a_collection_is_tried_and_the_report_goes_on_where_it_stopped(packages: Path, tmp_path: Path) -> None:
    mirrored = shutil.copytree(packages / "old-otter", tmp_path / "mirror" / "old-otter").parent
    shutil.copytree(packages / "conscientious-seashell", mirrored / "conscientious-seashell")
    output, home = tmp_path / "report", tmp_path / "home"
    with Mirror(mirrored) as mirror:

        def report(*arguments: str) -> dict[str, Any]:
            environment = {key: str(value) for key, value in mirror.environment.items()}
            done = bioengine("zoo-report", *arguments, "-o", str(output), "--home", str(home), timeout=300, **environment)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"The table is in {output / 'zoo-report.md'}" in done.stdout.replace("\n", "")
            return {each["asked"]: each for each in json.loads((output / "zoo-report.json").read_text())}

        first = report("conscientious-seashell", "no-such-model", "--no-keep")
        shell, missing = first["conscientious-seashell"], first["no-such-model"]
        assert shell["status"] == "runs" and shell["way"] == "onnx" and "onnx passed" in shell["test"], shell
        assert shell["seconds"] > 0.5 and not (home / "models" / "conscientious-seashell").exists(), "it was not there before"
        assert missing["status"] == "not imported" and "no-such-model" in missing["reason"]
        asked = mirror.count("conscientious-seashell/files/rdf.yaml")

        shutil.make_archive(str(tmp_path / "more" / "otter"), "zip", mirrored / "old-otter")
        second = report("conscientious-seashell", "--packages", str(tmp_path / "more"))
        assert mirror.count("conscientious-seashell/files/rdf.yaml") == asked, "it is in the report already"
        assert second["conscientious-seashell"] == shell and second["no-such-model"] == missing
        assert second["otter.zip"]["status"] == "runs" and (home / "models" / "old-otter").is_dir()
    lines = (output / "zoo-report.md").read_text().splitlines()
    assert sum(line.startswith("|") for line in lines) == 2 + len(second)
