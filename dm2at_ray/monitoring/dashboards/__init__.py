"""The dashboards of a run, as typed panels from which Grafana's JSON and the preview are made."""

from dm2at_ray.monitoring.dashboards.panels import Dashboard, Kind, Panel, Query, Row, Variable
from dm2at_ray.monitoring.dashboards.rounds import ROUNDS
from dm2at_ray.monitoring.dashboards.throughput import THROUGHPUT

DASHBOARDS = (ROUNDS, THROUGHPUT)

__all__ = ["DASHBOARDS", "ROUNDS", "THROUGHPUT", "Dashboard", "Kind", "Panel", "Query", "Row", "Variable"]
