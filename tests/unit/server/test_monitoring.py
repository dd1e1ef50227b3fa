"""The dashboard and the alert rules in deploy/monitoring: what they ask for is there, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_contract.operations import Card, ModelProcess, Report

from tests.stack.harness import ROOT
from tests.unit.server.test_dispatcher import Make, make, run
from tests.unit.server.test_metrics import Figures

__all__ = ["make"]

FOLDER = ROOT / "deploy" / "monitoring"
RULES = FOLDER / "alerts.yml"
_DURATION = re.compile(r"([0-9]+(s|m|h|d))+")
_OF_PROMETHEUS = {"up"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (variable["query"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query")
    yield from (rule["expr"] for rule in rules())


@pytest.fixture
async def samples(make: Make, tmp_path: Path) -> dict[str, set[str]]:
    """The names of everything that /metrics tells of a server with a card that has run a model, and of their labels."""
    dispatcher, _ = make()
    figures = Figures(tmp_path, dispatcher)
    await run(dispatcher)
    card = Card(index=0, name="a card", memory=2, free=1)
    figures.overview.learn(Report(boot="1", dead_instances=[], models={"shark": ModelProcess(state="open")}, cards=[card]))
    found: dict[str, set[str]] = {}
    for line in figures.metrics.text().decode().splitlines():
        if not line.startswith("#"):
            found.setdefault(re.split(r"[ {]", line)[0], set()).update(re.findall(r'(\w+)="', line))
    return found


async def test_every_figure_that_is_asked_for_is_there(samples: dict[str, set[str]]) -> None:
    asked = {name for query in queries() for name in re.findall(r"\b(?:bioengine|process|up)(?:_\w+)?\b(?=[{ \[),]|$)", query)}
    assert len(asked) > 20 and asked - {*samples} <= _OF_PROMETHEUS | {"bioengine"}, asked - {*samples}


async def test_every_figure_is_asked_for_or_documented(samples: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for name in samples:
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        assert f"`{base}`" in page or name.startswith("process_"), f"docs/monitoring.md does not have {base}"


async def test_labels_that_are_asked_for_are_there(samples: dict[str, set[str]]) -> None:
    known = {label for labels in samples.values() for label in labels} | {"job", "instance"}
    for query in queries():
        asked = {label.strip() for part in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in part.split(",")}
        asked |= {label for part in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)=", part)}
        assert asked <= known, (query, asked - known)


def test_the_dashboard_is_one() -> None:
    found = dashboard()
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 15
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and all(0 <= x < 24 for x, _ in cells), panel["title"]
        taken |= cells
    assert all(query.count("(") == query.count(")") and query.count("{") == query.count("}") for query in queries())


def test_the_rules_are_ones() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len({*names}) == len(names) and all(name.startswith("BioEngine") for name in names)
    for rule in rules():
        assert {*rule} <= {"alert", "expr", "for", "labels", "annotations"}
        assert "for" not in rule or _DURATION.fullmatch(rule["for"]), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


# What each alert fires at, in an hour of figures a minute apart, in promtool's notation; and what none fires at.
FIRING: dict[str, dict[str, str]] = {
    "BioEngineDown": {"up{}": "0+0x60"},
    "BioEngineNotReady": {"bioengine_ready{}": "0+0x60"},
    "BioEngineFailures": {
        'bioengine_requests_total{outcome="done"}': "0+60x60",
        'bioengine_requests_total{outcome="model_process_died"}': "0+6x60",
        'bioengine_requests_total{outcome="token_needed"}': "0+6000x60",
    },
    "BioEngineQueueFull": {"bioengine_requests_waiting{}": "250+0x60", "bioengine_requests_waiting_limit{}": "256+0x60"},
    "BioEngineSlow": {
        'bioengine_request_stage_seconds_bucket{stage="queued",le="30.0"}': "0+1x60",
        'bioengine_request_stage_seconds_bucket{stage="queued",le="100.0"}': "0+60x60",
        'bioengine_request_stage_seconds_bucket{stage="queued",le="+Inf"}': "0+60x60",
    },
    "BioEngineModelsDie": {"bioengine_model_deaths_total{}": "0+1x60"},
    "BioEngineTritonRestarts": {"bioengine_triton_restarts_total{}": "0+0.2x60"},
    "BioEngineGpuFull": {
        'bioengine_gpu_memory_bytes{gpu="0",name="x"}': "80+0x60",
        'bioengine_gpu_memory_free_bytes{gpu="0",name="x"}': "1+0x60",
    },
    "BioEngineServerMemory": {"bioengine_info{}": "1+0x60", "process_resident_memory_bytes{}": "7000000000+0x60"},
    "BioEngineOpenFiles": {"bioengine_info{}": "1+0x60", "process_open_fds{}": "90+0x60", "process_max_fds{}": "100+0x60"},
}
QUIET: dict[str, str] = {
    "up{}": "1+0x60",
    "bioengine_ready{}": "1+0x60",
    "bioengine_info{}": "1+0x60",
    'bioengine_requests_total{outcome="done"}': "0+60x60",
    'bioengine_requests_total{outcome="model_not_found"}': "0+60x60",
    'bioengine_requests_total{outcome="model_process_died"}': "0+1x60",
    "bioengine_requests_waiting{}": "0+1x60",
    "bioengine_requests_waiting_limit{}": "256+0x60",
    'bioengine_request_stage_seconds_bucket{stage="queued",le="30.0"}': "0+60x60",
    'bioengine_request_stage_seconds_bucket{stage="queued",le="+Inf"}': "0+60x60",
    "bioengine_model_deaths_total{}": "1+0x60",
    "bioengine_triton_restarts_total{}": "1+0x60",
    'bioengine_gpu_memory_bytes{gpu="0",name="x"}': "80+0x60",
    'bioengine_gpu_memory_free_bytes{gpu="0",name="x"}': "30+0x60",
    "process_resident_memory_bytes{}": "1000000000+0x60",
    "process_open_fds{}": "30+0x60",
    "process_max_fds{}": "100+0x60",
}


def test_prometheus_own_tool_takes_the_rules_and_they_fire(tmp_path: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not here")
    assert {rule["alert"] for rule in rules()} == {*FIRING}
    subprocess.run([promtool, "check", "rules", str(RULES)], check=True, capture_output=True)
    tests = [_test(QUIET), *(_test(series, alert) for alert, series in FIRING.items())]
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _test(figures: dict[str, str], *firing: str) -> dict[str, Any]:
    """As promtool takes it: figures of an hour, and which alerts fire at its end."""
    where = 'job="bioengine",instance="a:9520"'
    series = [
        {"series": name.replace("{", f"{{{where},", 1).replace(",}", "}"), "values": values} for name, values in figures.items()
    ]
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in firing]
    query = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{"expr": query, "eval_time": "1h", "exp_samples": expected}],
    }
