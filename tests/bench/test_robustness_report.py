"""Rows summed up, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from dm2at_ray.bench.robustness_report import RobustnessReport, robustness_notes, summarize, summary_table
from dm2at_ray.bench.trial import TrialRow


def row(recipe: str, seed: int, clean: float, pgd: float, **more: Any) -> TrialRow:
    return TrialRow(recipe=recipe, seed=seed, clean=clean, fgsm=0.8, pgd=pgd, seconds=60.0, **more)


def look(epoch: int, collapse: str | None) -> dict[str, Any]:
    return {"epoch": epoch, "collapse": collapse}


REFERENCE = [row("pgd10", 0, 0.90, 0.70), row("pgd10", 1, 0.88, 0.72)]


@pytest.mark.parametrize(
    ("clean", "pgd", "holds"),
    [(0.90, 0.68, True), (0.90, 0.69, True), (0.90, 0.66, False), (0.89, 0.75, False), (0.95, 0.60, False)],
)
def test_summarize__holds_within_3_points_of_pgd_at_no_less_clean_accuracy(
    clean: float, pgd: float, holds: bool
) -> None:
    rows = [*REFERENCE[:1], row("n_fgsm", 0, clean, pgd)]
    assert summarize(rows)[1].holds is holds


def test_summarize__means_and_points_over_the_seeds_of_both() -> None:
    rows = [*REFERENCE, *(row("n_fgsm", seed, 0.91, 0.5 + seed / 10) for seed in (0, 1, 2))]
    reference, other = summarize(rows)
    assert reference.pgd == pytest.approx(0.71)
    assert reference.deviation is not None
    assert reference.deviation["clean"] == pytest.approx(0.02 / 2**0.5)
    assert other.seeds == [0, 1, 2]
    assert other.pgd == pytest.approx(0.6)
    assert other.pgd_points == pytest.approx((-20 - 12) / 2)
    assert other.clean_points == pytest.approx((1 + 3) / 2)


def test_summarize__without_the_reference_or_another_seed() -> None:
    for rows in ([row("n_fgsm", 0, 0.9, 0.7)], [REFERENCE[0], row("n_fgsm", 5, 0.9, 0.7)]):
        summary = summarize(rows)[-1]
        assert (summary.clean_points, summary.pgd_points, summary.holds) == (None, None, None)
        assert summary.deviation is None


def test_summarize__failed_and_collapsed_ones() -> None:
    last = {"clean": 0.9, "fgsm": 0.9, "pgd": 0.01}
    rows = [
        row("fgsm_joint", 0, 0.9, 0.5, looks=[look(5, None), look(10, "overfitting")], last=last),
        row("fgsm_joint", 1, 0.9, 0.6, looks=[look(5, "inversion"), look(10, None)]),
        row("fgsm_joint", 2, 0.9, 0.7, looks=[look(5, None)]),
        TrialRow(recipe="fgsm_joint", seed=3, error="loss is not finite"),
    ]
    (summary,) = summarize(rows)
    assert (summary.failed, summary.collapsed, summary.restored) == (1, [10, 5], 1)
    assert summary.last_pgd == 0.01
    assert summary.pgd == pytest.approx(0.6)


def test_summarize__nothing_but_failures() -> None:
    rows = [TrialRow(recipe="clean", seed=seed, error="no luck") for seed in (0, 1)]
    (summary,) = summarize(rows)
    assert (summary.failed, summary.seeds, summary.pgd, summary.seconds) == (2, [], None, None)
    report = report_of(rows)
    assert summary_table(report).row_count == 1
    assert "clean, seed 1: no luck" in robustness_notes(report)


def test_robustness_notes__what_keeps_up_with_the_reference() -> None:
    rows = [*REFERENCE, row("n_fgsm", 0, 0.91, 0.69), row("clean", 0, 0.95, 0.0)]
    assert robustness_notes(report_of(rows))[-1] == (
        "within 3 points of pgd10's PGD accuracy at no less clean accuracy: n_fgsm"
    )
    assert robustness_notes(report_of(REFERENCE))[-1].endswith("clean accuracy: none")
    assert not any("within" in line for line in robustness_notes(report_of(rows[2:])))


def report_of(rows: list[TrialRow]) -> RobustnessReport:
    settings = {"jobs": 1, "threads": 1, "model": "small_cnn", "labels": 10, "images": "x", "pgd_steps": 20}
    machine: dict[str, object] = {"gpu": None, "cpu": "some", "torch": "2.11"}
    return RobustnessReport(settings=settings, machine=machine, rows=rows, summary=summarize(rows), left=0)
