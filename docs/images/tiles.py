"""Print how `drawn-nuclei` takes an image: the runner's own plan, as JSON for draw.py.

    .environments/runner/bin/python docs/images/tiles.py HEIGHT WIDTH [TILE]

`{"block": {axis: pixels}, "tiles": [{axis: {"from", "to", "keep_from", "keep_to"}}, ...]}`, in pixels of the image.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml
from bioengine_runner.tiling.geometry import geometry
from bioengine_runner.tiling.plan import Planner
from bioimageio.spec import load_model_description

# What makes a manifest is the server's; it needs nothing that this environment has not, so it can be taken from there.
SERVER = Path(__file__).resolve().parents[2] / "server"
sys.path.append(str(SERVER))

from bioengine_server.store.manifest_builder import build_manifest  # noqa: E402

MODEL = "drawn-nuclei"
PACKAGE = SERVER / "bioengine_server" / "packages" / MODEL


def main() -> None:
    height, width, *tile = map(int, sys.argv[1:])
    description = load_model_description(PACKAGE / "rdf.yaml", perform_io_checks=False)
    raw = yaml.safe_load((PACKAGE / "rdf.yaml").read_text(encoding="utf-8"))
    planner = Planner(MODEL, geometry(build_manifest(description, raw, MODEL, "", PACKAGE, files={}, origin="")))
    sizes = {"image": {"batch": 1, "channel": 1, "y": height, "x": width}}
    plan = planner.plan(sizes, float("inf"), dict.fromkeys("yx", tile[0]) if tile else None)
    tiles = []
    for piece in plan.tiles():
        given, kept = plan.inputs(piece), plan.outputs(piece)
        tiles.append(
            {
                axis: {
                    "from": given["image", axis].start,
                    "to": given["image", axis].stop,
                    "keep_from": kept["probability", axis].place.start,
                    "keep_to": kept["probability", axis].place.stop,
                }
                for axis in "yx"
            }
        )
    print(json.dumps({"block": plan.block, "tiles": tiles}))


if __name__ == "__main__":
    main()
