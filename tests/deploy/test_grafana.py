"""The dashboards' JSON: Grafana's own models take it without a loss, and it says what the panels say."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from dm2at_ray.monitoring.dashboards import DASHBOARDS, Dashboard
from dm2at_ray.monitoring.dashboards.grafana import SCHEMA_VERSION
from dm2at_ray.monitoring.metrics import RunMetrics

from .conftest import DEPLOY

GRAFANA = DEPLOY / "grafana"
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)


def committed(dashboard: Dashboard) -> dict[str, Any]:
    name = dashboard.uid.removeprefix("dm2at-")
    return json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """Paths of what Grafana's models did not take over, or took for something else."""
    if isinstance(given, dict) and isinstance(kept, dict):
        missing = [f"{path}.{key}" for key in given if key not in kept]
        return missing + [
            word for key in given if key in kept for word in lost(given[key], kept[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [
            word
            for index, pair in enumerate(zip(given, kept, strict=True))
            for word in lost(*pair, f"{path}[{index}]")
        ]
    return [] if given == kept else [path]


def through_grafana(model: dict[str, Any]) -> dict[str, Any]:
    """A dashboard read and written by Grafana's own models, which keep only what they know."""
    dashboards = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard",
        reason="Grafana's models (grafana-foundation-sdk) need Python 3.11 and the extra `dev`",
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    return json.loads(json.dumps(dashboards.Dashboard.from_json(model), cls=JSONEncoder))


@each_dashboard
def test_dashboard__grafana_s_models_know_every_field(dashboard: Dashboard) -> None:
    model = committed(dashboard)
    assert lost(model, through_grafana(model)) == []
    assert model["schemaVersion"] == SCHEMA_VERSION


@pytest.mark.parametrize(
    "where",
    [
        ("panels", 1, "options", "textModes"),
        ("panels", 1, "fieldConfig", "defaults", "units"),
        ("panels", 1, "targets", 0, "expression"),
        ("templating", "list", 1, "datasourceUid"),
    ],
    ids=lambda where: str(where[-1]),
)
def test_dashboard__a_misspelt_field_is_found(where: tuple[Any, ...]) -> None:
    model = committed(DASHBOARDS[0])
    place: Any = model
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = "x"
    found = lost(model, through_grafana(model))
    assert [path.rsplit(".", 1)[-1] for path in found] == [where[-1]]


@each_dashboard
def test_panels__ids_are_unique_and_places_do_not_overlap(dashboard: Dashboard) -> None:
    panels = committed(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(p["x"] >= 0 and p["x"] + p["w"] <= 24 for p in places)
    for a, b in combinations(places, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, (a, b)


@each_dashboard
def test_queries__use_variables_that_the_dashboard_has(dashboard: Dashboard) -> None:
    known = {variable.name for variable in dashboard.variables}
    used = {
        name
        for panel in dashboard.panels
        for query in panel.queries
        for name in re.findall(r"\$(\w+)", query.expr)
    }
    assert used == known


@each_dashboard
def test_queries__every_series_of_ours_is_one_that_a_run_exposes_and_is_of_the_run(
    dashboard: Dashboard,
) -> None:
    exposed = {
        name
        for family in RunMetrics("x", ["cat"]).registry.collect()
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    for panel in dashboard.panels:
        for query in panel.queries:
            for name, selector in re.findall(r"(dm2at_\w+)(\{[^}]*\})?", query.expr):
                assert name in exposed, f"{panel.title}: {name}"
                assert 'run="$run"' in selector, f"{panel.title}: {query.expr}"


def test_panels__are_those_that_were_asked_for() -> None:
    titles = {dashboard.title: {panel.title for panel in dashboard.panels} for dashboard in DASHBOARDS}
    assert titles["dm2at / Rounds"] >= {
        "Accuracy over time",
        "Accuracy against labels",
        "Round",
        "Phase",
        "Budget left",
        "Stage seconds",
        "Queries by class",
        "Scores over rounds",
        "Recall audit",
        "Rejected images",
        "Stability watch",
    }
    assert titles["dm2at / Throughput"] >= {
        "Images a second by stage and node",
        "Actor restarts",
        "GPU use",
        "Object store",
        "Spill",
        "CPU",
    }


def test_provisioning__names_the_folder_and_a_data_source() -> None:
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["type"] == "prometheus"
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/dm2at.yaml").read_text())
    assert provider["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards/dm2at"
