"""The dashboards as one picture: what a Prometheus has of a run, by the panels' own queries."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dm2at_ray.errors import RunError
from dm2at_ray.monitoring.dashboards import DASHBOARDS, Panel
from dm2at_ray.monitoring.dashboards.panels import COLUMNS, Place
from dm2at_ray.monitoring.prometheus.client import Prometheus, Series

LOOK_BACK = "14d"
STEPS = 300
COLUMN_INCHES, ROW_INCHES = 0.7, 0.38
INK, FAINT = "#24292f", "#d0d7de"
MANY = 8
"""Series above which a legend would hide the picture."""


def write_preview(url: str, run: str, output: Path) -> Path:
    """Draw every panel of every dashboard.

    Args:
        url: Where Prometheus answers.
        run: The run's name.
        output: The picture to write.

    Raises:
        RunError: Prometheus knows no such run.
        QueryError: It does not answer.
    """
    data = RunData(Prometheus(url), run)
    heights = [max(place.y + place.height for _, place in d.places) + 2 for d in DASHBOARDS]
    figure = Figure(figsize=(COLUMNS * COLUMN_INCHES, sum(heights) * ROW_INCHES), facecolor="white")
    above = 0
    with matplotlib.rc_context({"font.size": 8, "axes.edgecolor": FAINT, "text.color": INK}):
        for dashboard, height in zip(DASHBOARDS, heights, strict=True):
            title = Place(0, above, COLUMNS, 2)
            _heading(figure, f"{dashboard.title}   run = {run}", title, sum(heights), 13)
            for item, place in dashboard.places:
                lower = Place(place.x, place.y + above + 2, place.width, place.height)
                if isinstance(item, Panel):
                    _draw(_axes(figure, lower, sum(heights)), item, data)
                else:
                    _heading(figure, item.title, lower, sum(heights), 10)
            above += height
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=100)
    return output


class RunData:
    """What a Prometheus has of one run, over the time in which it has anything.

    Raises:
        RunError: It has nothing.
    """

    def __init__(self, prometheus: Prometheus, run: str) -> None:
        self._prometheus = prometheus
        seen = f'timestamp(dm2at_round{{run="{run}"}})'
        begin = prometheus.at(f"min(min_over_time({seen}[{LOOK_BACK}:30s]))")
        if not begin:
            raise RunError(f"run {run}: {prometheus.url} has no metrics of it; give another --run or URL")
        # Looked for in steps of half a minute, then second by second.
        self.begin = prometheus.at(f"min(min_over_time({seen}[1m:1s]))", begin[0].values[0])[0].values[0]
        near = prometheus.at(f"max(max_over_time({seen}[{LOOK_BACK}:30s]))")[0].values[0]
        # The last half minute has the last round's accuracies.
        self.end = prometheus.at(f"max(max_over_time({seen}[1m:1s]))", near + 30)[0].values[0]
        info = prometheus.at(f'last_over_time(dm2at_run_info{{run="{run}"}}[{LOOK_BACK}])', self.end)
        self._variables = {"run": run, "session": info[0].labels["session"] if info else ""}

    def expression(self, expr: str) -> str:
        """An expression with the dashboard's variables replaced by their values."""
        return re.sub(r"\$(\w+)", lambda match: self._variables[match[1]], expr)

    def over_time(self, expr: str) -> list[Series]:
        """An expression from the run's begin to its end."""
        step = max(1.0, (self.end - self.begin) / STEPS)
        return self._prometheus.between(self.expression(expr), self.begin, self.end, step)

    def last(self, expr: str) -> list[Series]:
        """An expression at the run's end."""
        return self._prometheus.at(self.expression(expr), self.end)


def legend(template: str, labels: dict[str, str]) -> str:
    """A legend with its `{{label}}` filled in, as Grafana does.

    Examples:
        >>> legend("{{stage}} on {{node}}", {"stage": "embed", "node": "10.0.0.1"})
        'embed on 10.0.0.1'
    """
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), template)


def amount(value: float, unit: str) -> str:
    """A value as a panel writes it.

    Examples:
        >>> amount(0.925, "percentunit"), amount(2_500_000, "bytes"), amount(float("inf"), "short")
        ('92.5 %', '2.5 MB', '∞')
    """
    if math.isinf(value):
        return "∞"
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit == "percent":
        return f"{value:.0f} %"
    suffix = {"bytes": "B", "Bps": "B/s", "s": " s", "images/s": "/s"}.get(unit, "")
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and unit != "s":
            return f"{value / size:.3g} {prefix}{suffix}".rstrip()
    return f"{value:.3g}{' ' if suffix.startswith('B') else ''}{suffix}"


def _heading(figure: Figure, text: str, place: Place, rows: int, size: int) -> None:
    y = 1 - (place.y + place.height * 0.6) / rows
    figure.text(0.012, y, text, fontsize=size, fontweight="bold", va="center", color=INK)


def _axes(figure: Figure, place: Place, rows: int) -> Axes:
    """Axes in a panel's place, with room around them for the title and the labels."""
    left, right, top, bottom = 1.3, 0.25, 0.95, 0.9
    box = (
        (place.x + left) / COLUMNS,
        1 - (place.y + place.height - bottom) / rows,
        (place.width - left - right) / COLUMNS,
        (place.height - top - bottom) / rows,
    )
    return figure.add_axes(box)


def _draw(axes: Axes, panel: Panel, data: RunData) -> None:
    axes.set_title(panel.title, fontsize=8.5, loc="left", color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    drawn = DRAWINGS[panel.kind](axes, panel, data)
    if not drawn:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="#8c959f", transform=axes.transAxes)


def _named(panel: Panel, ask: Callable[[str], list[Series]]) -> list[tuple[str, Series]]:
    return [
        (legend(query.legend, series.labels), series) for query in panel.queries for series in ask(query.expr)
    ]


def _timeseries(axes: Axes, panel: Panel, data: RunData) -> bool:
    found = _named(panel, data.over_time)
    if panel.stacked and found:
        times = sorted({time for _, series in found for time in series.times})
        layers = [[dict(zip(s.times, s.values, strict=True)).get(t, 0.0) for t in times] for _, s in found]
        axes.stackplot(
            np.array(times) - data.begin, layers, labels=[n for n, _ in found], step="post", alpha=0.75
        )
    else:
        for name, series in found:
            axes.step(np.array(series.times) - data.begin, series.values, where="post", label=name, lw=1.3)
    _scale(axes, panel)
    axes.set_xlabel("seconds", fontsize=7, labelpad=1)
    if 0 < len(found) <= MANY:
        axes.legend(fontsize=6, frameon=False, ncols=2, loc="best")
    return bool(found)


def _stat(axes: Axes, panel: Panel, data: RunData) -> bool:
    found = data.last(panel.queries[0].expr)
    if found:
        text = amount(found[0].values[0], panel.unit)
        axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=18, transform=axes.transAxes)
    axes.set_axis_off()
    return bool(found)


def _bars(axes: Axes, panel: Panel, data: RunData) -> bool:
    found = sorted(_named(panel, data.last), key=lambda pair: pair[1].values[0])
    names, values = [name for name, _ in found], [series.values[0] for _, series in found]
    axes.barh(names, values, color="#3d71d9", height=0.7)
    for row, value in enumerate(values):
        axes.text(value, row, f" {amount(value, panel.unit)}", va="center", fontsize=6.5)
    axes.tick_params(labelsize=6.5, length=0)
    axes.xaxis.set_visible(False)
    axes.margins(x=0.2)
    axes.set_ylim(-0.6, max(5, len(found)) - 0.4)
    return bool(found)


def _heatmap(axes: Axes, panel: Panel, data: RunData) -> bool:
    found = sorted(data.over_time(panel.queries[0].expr), key=lambda series: float(series.labels["le"]))
    if not found:
        return False
    times = np.array(found[0].times) - data.begin
    cumulative = np.array([series.values for series in found])
    counts = np.diff(cumulative, axis=0, prepend=0.0)
    mesh = axes.pcolormesh(
        times, np.arange(len(found)), np.where(counts > 0, counts, np.nan), cmap="Blues", shading="nearest"
    )
    axes.figure.colorbar(mesh, ax=axes, pad=0.01).ax.tick_params(labelsize=6, length=0)
    ticks = range(0, len(found), 3)
    axes.set_yticks(list(ticks), [found[tick].labels["le"] for tick in ticks])
    axes.tick_params(labelsize=6.5)
    axes.set_xlabel("seconds", fontsize=7, labelpad=1)
    return True


def _timeline(axes: Axes, panel: Panel, data: RunData) -> bool:
    found = _named(panel, data.over_time)
    for row, (_, series) in enumerate(found):
        step = (data.end - data.begin) / STEPS
        spans = [(time - data.begin, max(1.0, step)) for time in series.times]
        axes.broken_barh(spans, (row - 0.4, 0.8), color=f"C{row}")
    axes.set_yticks(range(len(found)), [name for name, _ in found])
    axes.tick_params(labelsize=6.5, length=0)
    return bool(found)


def _against(axes: Axes, panel: Panel, data: RunData) -> bool:
    x, *others = panel.queries
    labels = data.over_time(x.expr)
    if not labels:
        return False
    size_at = dict(zip(labels[0].times, labels[0].values, strict=True))
    drawn = False
    for query in others:
        for series in data.over_time(query.expr):
            points = sorted(
                {(size_at[t], v) for t, v in zip(series.times, series.values, strict=True) if t in size_at}
            )
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, label=query.legend)
            drawn = True
    _scale(axes, panel)
    axes.set_xlabel(x.legend, fontsize=7, labelpad=1)
    axes.legend(fontsize=6, frameon=False)
    return drawn


def _scale(axes: Axes, panel: Panel) -> None:
    low, high = panel.limits
    axes.set_ylim(low, high)
    axes.tick_params(labelsize=6.5, length=0)
    axes.grid(axis="y", color=FAINT, lw=0.4)
    axes.yaxis.set_major_formatter(lambda value, _: amount(value, panel.unit))


DRAWINGS: dict[str, Callable[[Axes, Panel, RunData], bool]] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "bargauge": _bars,
    "heatmap": _heatmap,
    "state-timeline": _timeline,
    "xychart": _against,
}
