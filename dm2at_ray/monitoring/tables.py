"""The tables of a run, from the ``metrics.json`` of its rounds; they fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.table import Table

from dm2at_ray.monitoring.names import RoundMetrics, attack_name, attacks_of, round_seconds, stages_of
from dm2at_ray.monitoring.quantities import NOTHING, duration, percent


def rounds_table(rounds: Sequence[RoundMetrics]) -> Table:
    """One row a round: labels, accuracy by attack, accuracy on the labeled set, time."""
    attacks = attacks_of(rounds)
    table = plain_table(*rounds_header(attacks))
    for metrics in rounds:
        table.add_row(*round_cells(metrics, attacks))
    return table


def rounds_header(attacks: Sequence[str]) -> list[str]:
    """The column names over `round_cells`."""
    return ["round", "labels", *map(attack_name, attacks), "train acc.", "time"]


def round_cells(metrics: RoundMetrics, attacks: Sequence[str]) -> list[str]:
    """A round in the words of one row."""
    accuracy = metrics.get("accuracy", {})
    return [
        str(metrics["round"]),
        f"{metrics['labeled']:,}",
        *(percent(accuracy.get(attack)) for attack in attacks),
        percent(metrics.get("train_accuracy")),
        duration(round_seconds(metrics)),
    ]


def round_costs_table(rounds: Sequence[RoundMetrics]) -> Table:
    """One row a round: seconds of every stage and in all; a last row with the means of several rounds."""
    columns = stages_of(rounds)
    table = plain_table("round", *columns, "sum")
    table.title, table.title_justify = "seconds by stage", "left"
    for metrics in rounds:
        seconds = [metrics.get("stage_seconds", {}).get(stage) for stage in columns]
        table.add_row(str(metrics["round"]), *map(_seconds, seconds), _seconds(round_seconds(metrics)))
    if len(rounds) > 1:
        table.add_section()
        sums = [round_seconds(metrics) for metrics in rounds]
        table.add_row("mean", *(_seconds(_mean(rounds, stage)) for stage in columns), _seconds(fmean(sums)))
    return table


def _mean(rounds: Sequence[RoundMetrics], stage: str) -> float:
    """Mean seconds of a stage over the rounds that went through it."""
    timings = (metrics.get("stage_seconds", {}) for metrics in rounds)
    return fmean(seconds[stage] for seconds in timings if stage in seconds)


def plain_table(*headers: str) -> Table:
    """An empty table of right-justified columns under a line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:,.1f}" if seconds < 1000 else f"{seconds:,.0f}"
