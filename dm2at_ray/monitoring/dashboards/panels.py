"""What a dashboard consists of, without any of Grafana's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

COLUMNS = 24

Kind = Literal["timeseries", "stat", "bargauge", "heatmap", "state-timeline", "xychart"]
"""Grafana's names of the panels in use."""

Unit = Literal["none", "short", "percentunit", "percent", "s", "bytes", "Bps", "images/s"]
"""Units of values, as Grafana names them where it knows them."""


@dataclass(frozen=True)
class Query:
    """One PromQL expression of a panel.

    Attributes:
        expr: With `$run` and the dashboard's other variables.
        legend: Name of each of its series, with `{{label}}`.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: In a few words.
        about: What it shows and how to read it, one line.
        queries: In an `xychart` the first is the x axis of all others.
        kind: How they are drawn.
        unit: Of the values.
        width: Of the 24 columns of a dashboard.
        height: In Grafana's rows of 30 pixels.
        limits: Ends of the axis of values; None where it follows them.
        stacked: Whether series are drawn upon each other.
    """

    title: str
    about: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    unit: Unit = "short"
    width: int = 8
    height: int = 8
    limits: tuple[float | None, float | None] = (None, None)
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under one heading, laid out from left to right and on to the next line."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Place:
    """Where something is on a page, in columns and rows from the upper left, and how large."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Variable:
    """A selector above the panels: the values of a label, one of which is chosen."""

    name: str
    label: str
    query: str


@dataclass(frozen=True)
class Dashboard:
    """A page of panels."""

    uid: str
    title: str
    about: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)

    @property
    def places(self) -> Iterator[tuple[Row | Panel, Place]]:
        """Rows and panels with their places: from left to right, on to the next line when one is full."""
        y = 0
        for row in self.rows:
            yield row, Place(0, y, COLUMNS, 1)
            x, y, line = 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, line = 0, y + line, 0
                yield panel, Place(x, y, panel.width, panel.height)
                x, line = x + panel.width, max(line, panel.height)
            y += line


RUN = Variable("run", "Run", "label_values(dm2at_run_info, run)")
"""The run that all panels are about."""
