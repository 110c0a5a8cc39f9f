"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dm2at_ray.monitoring.charts import accuracy_chart, stage_chart
from dm2at_ray.monitoring.evaluations import ATTACK_HEADER, Evaluation, attack_cells
from dm2at_ray.monitoring.gallery import QueriedImage, make_gallery
from dm2at_ray.monitoring.names import RoundMetrics, attack_name, attacks_of, round_seconds
from dm2at_ray.monitoring.quantities import NOTHING, duration, percent, percent_range
from dm2at_ray.monitoring.tables import round_cells, rounds_header

CLASSES_SHOWN = 30
SHADE_AT_FULL_ACCURACY = 0.5


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        title: Heading of the page.
        run_dir: Where the run is kept.
        config_yaml: Its resolved configuration.
        version: Version of dm2at-ray.
        created: When the report is made.
        class_names: Names of the classes.
        rounds: The ``metrics.json`` of the committed rounds, in order.
        queries: By round, the queried samples to show, most worth a label first.
        evaluations: By round, what `dm2at evaluate` found of its model.
        facts: Further facts of the run to list under its heading, such as its dates or its model.
    """

    title: str
    run_dir: str
    config_yaml: str
    version: str
    created: datetime
    class_names: Sequence[str]
    rounds: Sequence[RoundMetrics]
    queries: Mapping[int, Sequence[QueriedImage]] = field(default_factory=dict)
    evaluations: Mapping[int, Sequence[Evaluation]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def render_report(data: ReportData, *, pictures_per_round: int = 12) -> str:
    """The page as HTML, with its charts and pictures inside; it refers to nothing outside.

    Args:
        data: What to show.
        pictures_per_round: How many queried samples to show of a round at most.
    """
    environment = Environment(
        loader=PackageLoader("dm2at_ray.monitoring", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    attacks = attacks_of(data.rounds)
    queried = {metrics["round"]: metrics.get("queried") for metrics in data.rounds}
    return environment.get_template("report.html.j2").render(
        data=data,
        summary=_summary(data.rounds),
        headers=rounds_header(attacks),
        rows=[round_cells(metrics, attacks) for metrics in data.rounds],
        accuracy_svg=Markup(accuracy_chart(data.rounds)) if _measured(data.rounds) else None,
        stages_svg=Markup(stage_chart(data.rounds)) if data.rounds else None,
        intervals_known=any(metrics.get("accuracy_interval") for metrics in data.rounds),
        attack_names=[attack_name(attack) for attack in attacks],
        evaluation_headers=["round", *ATTACK_HEADER],
        evaluation_rows=[
            [str(index), *attack_cells(found)]
            for index, evaluations in sorted(data.evaluations.items())
            for found in evaluations
        ],
        classes=_class_rows(data, attacks),
        galleries=[
            make_gallery(round_index, samples, data.class_names, queried.get(round_index), pictures_per_round)
            for round_index, samples in sorted(data.queries.items())
            if samples
        ],
    )


def _measured(rounds: Sequence[RoundMetrics]) -> bool:
    return any(metrics.get("accuracy") for metrics in rounds)


def _summary(rounds: Sequence[RoundMetrics]) -> str:
    if not rounds:
        return "No round is committed yet."
    first, last = rounds[0], rounds[-1]
    count = "1 round" if len(rounds) == 1 else f"{len(rounds)} rounds"
    labels = dict.fromkeys(f"{metrics['labeled']:,}" for metrics in (first, last))
    measured = last.get("accuracy", {})
    accuracy = [f"{attack_name(attack)} {_unbroken(percent(value))}" for attack, value in measured.items()]
    return (
        f"{count}, {' to '.join(labels)} labels, {last['pool']:,} images left in the pool"
        + (f", {last['rejected']:,} set aside as unreadable" if last.get("rejected") else "")
        + (f". Accuracy: {', '.join(accuracy)}" if accuracy else "")
        + f". {_unbroken(duration(sum(map(round_seconds, rounds))))} in all."
    )


def _unbroken(quantity: str) -> str:
    return quantity.replace(" ", "\N{NO-BREAK SPACE}")


@dataclass(frozen=True)
class _ClassRow:
    name: str
    queried: str
    cells: list[tuple[str, str, float]]
    """By attack: the accuracy and its confidence interval in words, and how strongly to shade it."""


def _class_rows(data: ReportData, attacks: Sequence[str]) -> list[_ClassRow]:
    """Classes of the last evaluated round; of many, those that do worst under PGD, worst first."""
    evaluated = [metrics for metrics in data.rounds if metrics.get("accuracy_by_class")]
    if not evaluated:
        return []
    by_class = evaluated[-1]["accuracy_by_class"]
    intervals = evaluated[-1].get("accuracy_interval_by_class", {})
    shown = list(range(len(data.class_names)))
    if len(shown) > CLASSES_SHOWN:
        hardest = by_class.get("pgd", next(iter(by_class.values())))
        shown = sorted(shown, key=lambda index: _known(hardest[index], unknown=2.0))[:CLASSES_SHOWN]
    queried = [
        sum(m["queries_by_class"][index] for m in data.rounds if m.get("queries_by_class")) for index in shown
    ]
    return [
        _ClassRow(
            data.class_names[index],
            f"{count:,}",
            [_cell(by_class.get(attack), intervals.get(attack), index) for attack in attacks],
        )
        for index, count in zip(shown, queried, strict=True)
    ]


def _known(value: float | None, *, unknown: float) -> float:
    return unknown if value is None or math.isnan(value) else value


def _cell(
    by_class: Sequence[float | None] | None, intervals: Sequence[Sequence[float] | None] | None, index: int
) -> tuple[str, str, float]:
    known = _known(by_class[index] if by_class else None, unknown=-1.0)
    if known < 0:
        return NOTHING, "", 0.0
    return (
        percent(known),
        percent_range(intervals[index]) if intervals else "",
        SHADE_AT_FULL_ACCURACY * known,
    )
