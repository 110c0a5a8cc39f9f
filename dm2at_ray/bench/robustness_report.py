"""What a comparison of robust trainings found, and how it is printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from dm2at_ray.bench.recipes import REFERENCE, recipe_named
from dm2at_ray.bench.tables import figures_table, processor
from dm2at_ray.bench.trial import TrialRow

ATTACKS = ("clean", "fgsm", "pgd")

PGD_POINTS = 3.0
"""A recipe may fall short of the reference by so many points of PGD accuracy, at no less clean accuracy."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One recipe over its seeds; None where no training of it came to an end.

    Attributes:
        recipe: its name.
        explanation: what it does.
        seeds: of the trainings that came to an end.
        failed: trainings that did not.
        clean: mean accuracy.
        fgsm: mean accuracy under FGSM.
        pgd: mean accuracy under PGD.
        deviation: standard deviation over the seeds of each; None of a single one.
        clean_points: points of clean accuracy above the reference, the mean over the seeds of both.
        pgd_points: the same of PGD accuracy.
        holds: whether PGD accuracy is within 3 points of the reference's at no less clean accuracy.
        collapsed: epoch at which the watch first saw a collapse, of each training in which it did.
        restored: trainings whose result is the best look's weights.
        last_pgd: mean PGD accuracy of the last weights of the restored ones: what it would have been.
        seconds: mean of a training.
    """

    recipe: str
    explanation: str
    seeds: list[int]
    failed: int
    clean: float | None
    fgsm: float | None
    pgd: float | None
    deviation: dict[str, float] | None
    clean_points: float | None
    pgd_points: float | None
    holds: bool | None
    collapsed: list[int]
    restored: int
    last_pgd: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class RobustnessReport:
    """All that a comparison found.

    Attributes:
        settings: what was asked for.
        machine: processor, cores, versions.
        rows: every training, recipe after recipe.
        summary: every recipe.
        left: trainings that the time limit left out.
    """

    settings: dict[str, Any]
    machine: dict[str, object]
    rows: list[TrialRow]
    summary: list[Summary]
    left: int


def summarize(rows: Sequence[TrialRow]) -> list[Summary]:
    """Sum rows up, recipe after recipe."""
    reference = {row.seed: row for row in rows if row.recipe == REFERENCE and row.error is None}
    return [
        _summary(recipe, [row for row in rows if row.recipe == recipe], reference)
        for recipe in dict.fromkeys(row.recipe for row in rows)
    ]


def _summary(recipe: str, rows: Sequence[TrialRow], reference: dict[int, TrialRow]) -> Summary:
    done = [row for row in rows if row.error is None]
    both = [(row, reference[row.seed]) for row in done if row.seed in reference]
    points = {
        attack: _mean([100 * (getattr(row, attack) - getattr(other, attack)) for row, other in both])
        for attack in ("clean", "pgd")
    }
    holds = None
    if points["clean"] is not None and points["pgd"] is not None:
        holds = points["clean"] >= 0 and points["pgd"] >= -PGD_POINTS
    many = len(done) > 1
    return Summary(
        recipe=recipe,
        explanation=recipe_named(recipe).explanation,
        seeds=[row.seed for row in done],
        failed=len(rows) - len(done),
        **{attack: _mean([getattr(row, attack) for row in done]) for attack in ATTACKS},
        deviation={a: statistics.stdev(getattr(row, a) for row in done) for a in ATTACKS} if many else None,
        clean_points=points["clean"],
        pgd_points=points["pgd"],
        holds=holds,
        collapsed=[epoch for row in done if (epoch := _collapse(row)) is not None],
        restored=sum(row.last is not None for row in done),
        last_pgd=_mean([row.last["pgd"] for row in done if row.last is not None]),
        seconds=_mean([row.seconds for row in done if row.seconds is not None]),
    )


def _collapse(row: TrialRow) -> int | None:
    return next((look["epoch"] for look in row.looks if look["collapse"]), None)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def summary_table(report: RobustnessReport) -> Table:
    """Lay the recipes out for a terminal."""
    pgd = f"PGD-{report.settings['pgd_steps']}"
    columns = ("recipe", "clean", "FGSM", pgd, "Δ clean", "Δ PGD", "collapsed", "seconds")
    table = figures_table("accuracy on the test images, in %", *columns, names="recipe")
    for each in report.summary:
        spread = each.deviation or {}
        table.add_row(
            each.recipe,
            *(_percent(getattr(each, attack), spread.get(attack)) for attack in ATTACKS),
            *("" if points is None else f"{points:+.1f}" for points in (each.clean_points, each.pgd_points)),
            f"{len(each.collapsed)} of {len(each.seeds)}",
            "" if each.seconds is None else f"{each.seconds:,.0f}",
        )
    return table


def robustness_notes(report: RobustnessReport) -> list[str]:
    """Say in lines what the table leaves out."""
    machine, settings = report.machine, report.settings
    lines = [
        f"{processor(machine)}, {settings['jobs']} trainings at once, {settings['threads']} threads each; "
        f"torch {machine['torch']}",
        f"{settings['model']} on {settings['labels']:,} labels of {settings['images']}, others for each seed",
        f"mean ± standard deviation over seeds; Δ: points above {REFERENCE} with the same seed",
    ]
    lines += [f"{each.recipe}: {each.explanation}" for each in report.summary]
    for each in report.summary:
        if each.collapsed:
            epochs = ", ".join(map(str, each.collapsed))
            lines.append(f"{each.recipe}: collapse first seen after epoch {epochs}{_survival(each)}")
    lines += [f"{row.recipe}, seed {row.seed}: {row.error}" for row in report.rows if row.error is not None]
    if report.left:
        lines.append(f"{report.left} trainings were left out, the time being over")
    good = [each.recipe for each in report.summary if each.holds and each.recipe != REFERENCE]
    if any(each.recipe == REFERENCE and each.seeds for each in report.summary):
        lines.append(
            f"within {PGD_POINTS:g} points of {REFERENCE}'s PGD accuracy at no less clean accuracy: "
            f"{', '.join(good) or 'none'}"
        )
    return lines


def _survival(each: Summary) -> str:
    if each.last_pgd is None:
        return ""
    return (
        f"; {each.restored} of {len(each.seeds)} went back to their best weights, where the last ones have "
        f"{each.last_pgd:.1%} PGD accuracy"
    )


def _percent(share: float | None, deviation: float | None) -> str:
    if share is None:
        return ""
    return f"{100 * share:.1f}" + ("" if deviation is None else f"±{100 * deviation:.1f}")
