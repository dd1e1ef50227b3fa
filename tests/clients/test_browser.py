"""All calls of the contract with the JavaScript libraries, unmodified, in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.ahead import selected
from tests.clients.browser import installed, run_page, run_pages
from tests.stack.harness import ROOT, USUAL_URL, Stack
from tests.tiers import cases

LIBRARIES = ("imjoy-rpc-oldest", "imjoy-rpc-newest", "hypha-rpc")
CORE = ("imjoy-rpc-newest", "hypha-rpc")
PROGRAM = (ROOT / "tests" / "clients" / "javascript" / "program.js").read_text()
CALLS = re.findall(r'^call\("(.+)", ', PROGRAM, re.MULTILINE)
# Of libraries that have no function for them.
NOT_THERE = {("imjoy-rpc-oldest", "login")}

PAGE = """<!doctype html>
<meta charset="utf-8">
<script src="https://cdn.jsdelivr.net/npm/{name}@{version}/dist/hypha-rpc-websocket.min.js"></script>
<script>const GIVEN = {given};</script>
<script>{program}</script>
"""


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest, stack: Stack, peers: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """What each library's page reported; they run side by side. `client` is the library with its version."""

    def page(name: str, version: str) -> str:
        peer = peers["hypha" if name == "imjoy-rpc" else "imjoy"]
        given = json.dumps({"library": name, "url": USUAL_URL, **peer})
        return PAGE.format(name=name, version=version, given=given, program=PROGRAM)

    libraries = list(dict.fromkeys(library for (library,) in selected(request, "test_call", "library")))
    told = run_pages([page(*installed(library)) for library in libraries], stack, seconds=400)
    clients = ["{} {}, JavaScript".format(*installed(library)) for library in libraries]
    return {library: {"client": client, "calls": report["result"]} for library, client, report in zip(libraries, clients, told)}


CELLS = [(library, call) for library in LIBRARIES for call in CALLS if (library, call) not in NOT_THERE]


@pytest.mark.parametrize(("library", "call"), cases(CELLS, core=[cell for cell in CELLS if cell[0] in CORE]))
def test_call(
    reports: dict[str, dict[str, Any]], record_property: Callable[[str, object], None], library: str, call: str
) -> None:
    report = reports[library]
    record_property("client", report["client"])
    record_property("call", call)
    assert report["calls"][call] is None, report["calls"][call]


FETCH = """<!doctype html>
<script type="module">
const url = "http://127.0.0.1:9520", data = DATA;
const config = await (await fetch(`${url}/triton/v2/models/conscientious-seashell/config`)).json();
const inputs = [{ model_id: "conscientious-seashell", inputs: [data.image] }];
const answer = await fetch(`${url}/public/services/triton-client/execute`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ inputs, model_name: "bioengine-model-runner", serialization: "imjoy" }),
});
const { result } = await answer.json();

// Triton's own protocol: a header in JSON, then the bytes of the tensors.
const output = { name: "mask", parameters: { binary_data: true } };
const input = { name: "image", shape: [1, 2, 2], datatype: "FP32", parameters: { binary_data_size: 16 } };
const header = new TextEncoder().encode(JSON.stringify({ inputs: [input], outputs: [output] }));
const inferred = await fetch(`${url}/triton/v2/models/cellpose-like/infer`, {
  method: "POST",
  headers: { "Inference-Header-Content-Length": header.length },
  body: new Blob([header, Float32Array.of(1, 2, 3, 4)]),
});
const start = Number(inferred.headers.get("Inference-Header-Content-Length"));
const mask = Array.from(new Uint16Array((await inferred.arrayBuffer()).slice(start)));
window.report = { config, result, mask };
</script>
"""


def test_a_page_without_a_library(stack: Stack, packages: Path) -> None:
    """What a page of another origin may send and read: JSON, and the headers of Triton's binary tensors."""
    image, wanted = (np.load(packages / "conscientious-seashell" / f"test_{side}.npy") for side in ("input", "output"))
    encoded = {"_rtype": "ndarray", "_rvalue": base64.b64encode(image).decode(), "_rshape": image.shape, "_rdtype": "float32"}
    report = run_page(FETCH.replace("DATA", json.dumps({"image": encoded})), stack)["result"]
    assert len(report["config"]["input"][0]["dims"]) == 4
    output = report["result"]["outputs"][0]
    got = np.frombuffer(base64.b64decode(output["_rvalue"]), output["_rdtype"]).reshape(output["_rshape"])
    np.testing.assert_allclose(got, wanted, atol=1e-3)
    assert report["mask"] == [0, 0, 1, 1]
