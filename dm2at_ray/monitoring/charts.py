"""The charts of the report as inline SVG whose colours the page decides, for light and dark alike."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dm2at_ray.monitoring.names import RoundMetrics, attack_name, attacks_of, round_seconds, stages_of
from dm2at_ray.monitoring.quantities import duration

WIDTH_INCHES = 9.0
FONT_SIZE = 10
MOST_TICKS = 12
LEAST_RANGE_PERCENT = 10
MARKERS = ("o", "s", "^", "D", "v", "P")
# Matplotlib draws in stand-in colours, each replaced by a variable of the page's style sheet afterwards.
INK, MUTED, GRID, PAGE = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04"
SERIES = tuple(f"#0b0b{index:02x}" for index in range(8))
# Long stages that stand side by side get colours that everybody can tell apart.
STAGE_SERIES = tuple(SERIES[index] for index in (0, 3, 2, 7, 4, 5, 6, 1))
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAGE: "var(--page)",
    **{color: f"var(--series-{index})" for index, color in enumerate(SERIES)},
}
SVG_SETTINGS = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": FONT_SIZE}


def accuracy_chart(rounds: Sequence[RoundMetrics]) -> str:
    """Accuracy under each attack against the number of labels, each curve named at its end.

    The confidence interval is a shade around each curve, where the rounds tell it.
    """
    with matplotlib.rc_context({**SVG_SETTINGS, "svg.hashsalt": "accuracy"}):
        figure = Figure(figsize=(WIDTH_INCHES, 3.6))
        axes = _axes(figure, left=0.07, right=0.83, bottom=0.15, top=0.98)
        ends = []
        for index, attack in enumerate(attacks_of(rounds)):
            points = [
                (metrics["labeled"], 100 * metrics["accuracy"][attack])
                for metrics in rounds
                if metrics.get("accuracy", {}).get(attack) is not None
            ]
            if points:
                color = SERIES[index % len(SERIES)]
                marker = MARKERS[index % len(MARKERS)]
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, linewidth=2, markersize=6)
                _shade_intervals(axes, rounds, attack, color)
                ends.append((points[-1][1], attack_name(attack), color))
        _scale_percent(axes)
        _name_curves(axes, ends)
        axes.set_xlabel("labels", color=MUTED)
        if len(rounds) <= MOST_TICKS:
            axes.set_xticks(sorted({metrics["labeled"] for metrics in rounds}))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y", color=GRID, linewidth=1)
        return _svg(figure, "Accuracy by attack against the number of labels")


def stage_chart(rounds: Sequence[RoundMetrics]) -> str:
    """Seconds of every stage, one stacked bar a round, its sum at its end."""
    with matplotlib.rc_context({**SVG_SETTINGS, "svg.hashsalt": "stages"}):
        height = 0.9 + 0.34 * len(rounds)
        figure = Figure(figsize=(WIDTH_INCHES, height))
        axes = _axes(figure, left=0.09, right=0.9, bottom=0.45 / height, top=1 - 0.35 / height)
        reached = [0.0] * len(rounds)
        positions = range(len(rounds))
        for index, stage in enumerate(stages_of(rounds)):
            seconds = [metrics.get("stage_seconds", {}).get(stage, 0.0) for metrics in rounds]
            color = STAGE_SERIES[index % len(STAGE_SERIES)]
            axes.barh(positions, seconds, left=reached, height=0.66, color=color, edgecolor=PAGE, label=stage)
            reached = [start + more for start, more in zip(reached, seconds, strict=True)]
        for position, metrics in zip(positions, rounds, strict=True):
            _write_beside(axes, round_seconds(metrics), position)
        axes.set_yticks(positions, [f"round {metrics['round']}" for metrics in rounds])
        axes.invert_yaxis()
        axes.set_xlabel("seconds", color=MUTED)
        axes.grid(axis="x", color=GRID, linewidth=1)
        figure.legend(
            loc="upper left",
            bbox_to_anchor=(0.08, 1.0),
            ncols=8,
            frameon=False,
            labelcolor=INK,
            handlelength=1,
            handleheight=1,
            columnspacing=1.4,
            borderpad=0,
        )
        return _svg(figure, "Seconds by stage and round")


def _axes(figure: Figure, **margins: float) -> Axes:
    axes = figure.add_subplot()
    figure.subplots_adjust(**margins)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    return axes


def _shade_intervals(axes: Axes, rounds: Sequence[RoundMetrics], attack: str, color: str) -> None:
    ends = [
        (metrics["labeled"], *(100 * end for end in interval))
        for metrics in rounds
        if (interval := metrics.get("accuracy_interval", {}).get(attack)) is not None
    ]
    if ends:
        labels, low, high = zip(*ends, strict=True)
        axes.fill_between(labels, low, high, color=color, alpha=0.15, linewidth=0)


def _write_beside(axes: Axes, seconds: float, position: int) -> None:
    """Write the length of a bar behind its end."""
    axes.annotate(
        duration(seconds),
        (seconds, position),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
    )


def _scale_percent(axes: Axes) -> None:
    """Whole percentages, over a range wide enough that noise does not look like a trend."""
    bottom, top = axes.get_ylim()
    missing = max(0.0, LEAST_RANGE_PERCENT - (top - bottom)) / 2
    axes.set_ylim(bottom - missing, top + missing)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:.0f} %")


def _name_curves(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each curve's name and last value beside its end, moved apart where ends are close."""
    bottom, top = axes.get_ylim()
    gap = (top - bottom) * 0.065
    free_above = float("-inf")
    for value, name, color in sorted(ends):
        height = max(value, free_above + gap)
        free_above = height
        words = f"{name} {value:.1f} %"
        across = axes.get_yaxis_transform()
        axes.text(1.015, height, words, transform=across, va="center", color=color, weight="bold")


def _svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element without prologue and metadata, scaling with the page."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    document = buffer.getvalue()
    for color, variable in VARIABLES.items():
        document = document.replace(color, variable)
    # The ids only name parts of one figure; two figures on a page would repeat them.
    element = re.sub(r'<g id="[^"]*">', "<g>", document[document.index("<svg") :])
    return element.replace("<svg ", f'<svg role="img" aria-label="{title}" class="chart" ', 1)
