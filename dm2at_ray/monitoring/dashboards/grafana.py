"""Grafana's JSON of a dashboard (its classic model, schema version 41: Grafana 11 and later)."""

from __future__ import annotations

import json
from typing import Any

from dm2at_ray.monitoring.dashboards.panels import Dashboard, Panel, Row, Variable

SCHEMA_VERSION = 41
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"images/s": "suffix: images/s"}


def dashboard_json(dashboard: Dashboard) -> str:
    """The file that Grafana's provisioning reads."""
    return json.dumps(dashboard_model(dashboard), indent=2, ensure_ascii=False) + "\n"


def dashboard_model(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana's JSON object."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["dm2at"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "links": [
            {
                "title": "dm2at",
                "type": "dashboards",
                "tags": ["dm2at"],
                "icon": "",
                "tooltip": "",
                "asDropdown": False,
                "targetBlank": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_datasource_variable(), *map(_variable, dashboard.variables)]},
        "panels": _panels(dashboard),
    }


def _datasource_variable() -> dict[str, Any]:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "hide": 0,
        "skipUrlSync": False,
        "multi": False,
        "includeAll": False,
    }


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": DATASOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "skipUrlSync": False,
        "multi": False,
        "includeAll": False,
    }


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for item, place in dashboard.places:
        where = {"x": place.x, "y": place.y, "w": place.width, "h": place.height}
        model = (
            {"type": "row", "title": item.title, "collapsed": False, "panels": []}
            if isinstance(item, Row)
            else _panel(item)
        )
        made.append({**model, "id": len(made) + 1, "gridPos": where})
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    model: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "transparent": False,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                **_target_options(panel),
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }
    if panel.kind == "xychart":
        model["transformations"] = [
            {"id": "joinByField", "options": {"byField": "Time", "mode": "outer"}},
        ]
    return model


def _target_options(panel: Panel) -> dict[str, Any]:
    if panel.kind in ("stat", "bargauge"):
        return {"instant": True, "range": False}
    if panel.kind == "heatmap":
        return {"range": True, "format": "heatmap"}
    return {"range": True}


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": UNITS.get(panel.unit, panel.unit)}
    low, high = panel.limits
    if low is not None:
        defaults["min"] = low
    if high is not None:
        defaults["max"] = high
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            # A value stands until the next round says another one.
            "lineInterpolation": "stepAfter",
            "lineWidth": 2,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    elif panel.kind == "xychart":
        defaults["custom"] = {"show": "points+lines", "lineWidth": 2}
    elif panel.kind == "state-timeline":
        defaults["custom"] = {"fillOpacity": 80, "lineWidth": 0}
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    tooltip = {"mode": "multi", "sort": "desc"}
    reduced = {"calcs": ["lastNotNull"], "values": False, "fields": ""}
    if panel.kind == "timeseries":
        return {"legend": legend, "tooltip": tooltip}
    if panel.kind == "stat":
        return {
            "graphMode": "none",
            "colorMode": "none",
            "justifyMode": "auto",
            "textMode": "value",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
            "orientation": "auto",
            "reduceOptions": reduced,
        }
    if panel.kind == "bargauge":
        return {
            "displayMode": "basic",
            "valueMode": "color",
            "namePlacement": "auto",
            "showUnfilled": True,
            "sizing": "auto",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "orientation": "horizontal",
            "reduceOptions": reduced,
            "legend": {**legend, "showLegend": False},
        }
    if panel.kind == "state-timeline":
        return {
            "showValue": "never",
            "mergeValues": True,
            "rowHeight": 0.9,
            "alignValue": "left",
            "legend": {**legend, "showLegend": False},
            "tooltip": {**tooltip, "mode": "single", "sort": "none"},
        }
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "cellGap": 1,
            "cellValues": {"unit": "short"},
            "color": {
                "mode": "scheme",
                "scheme": "Blues",
                "fill": "dark-orange",
                "exponent": 0.5,
                "steps": 32,
                "reverse": True,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single"},
            "yAxis": {"unit": "short", "axisPlacement": "left"},
        }
    x, *others = panel.queries
    return {
        "mapping": "manual",
        "legend": legend,
        "tooltip": {"mode": "single", "sort": "none"},
        "series": [
            {
                "frame": {"matcher": {"id": "byIndex", "options": 0}},
                "x": {"matcher": {"id": "byName", "options": x.legend}},
                "y": {"matcher": {"id": "byName", "options": other.legend}},
            }
            for other in others
        ],
    }
