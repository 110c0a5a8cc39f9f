from __future__ import annotations

from typing import Any

import pytest

from dm2at_ray.config_sections import StopConfig
from dm2at_ray.stopping import stop_reason


def rounds(*pgd: float, labeled: int = 10) -> list[dict[str, Any]]:
    """Committed rounds with such PGD accuracies; the clean ones fall, so that the metric matters."""
    return [
        {
            "labeled": labeled * (index + 1),
            "accuracy": {"clean": 0.9 - 0.1 * index, "fgsm": 0.5, "pgd": value},
        }
        for index, value in enumerate(pgd)
    ]


def test_stop_reason__nothing_is_over_before_the_first_round() -> None:
    assert stop_reason(StopConfig(rounds=0, label_budget=1, patience=1), [], unlabeled=0) is None


def test_stop_reason__round_0_does_not_count() -> None:
    stop = StopConfig(rounds=2)
    assert stop_reason(stop, rounds(0.1, 0.2), unlabeled=5) is None
    assert stop_reason(stop, rounds(0.1, 0.2, 0.3), unlabeled=5) == "all 2 query rounds are done"
    assert stop_reason(StopConfig(rounds=0), rounds(0.1), unlabeled=5) == "all 0 query rounds are done"


def test_stop_reason__label_budget() -> None:
    stop = StopConfig(rounds=None, label_budget=2000)
    assert stop_reason(stop, rounds(0.1, labeled=1999), unlabeled=5) is None
    assert stop_reason(stop, rounds(0.1, labeled=2000), unlabeled=5) == "the budget of 2,000 labels is spent"


def test_stop_reason__empty_pool() -> None:
    assert stop_reason(StopConfig(rounds=None), rounds(0.1), unlabeled=1) is None
    assert stop_reason(StopConfig(rounds=None), rounds(0.1), unlabeled=0) == "the pool is empty"


@pytest.mark.parametrize(
    ("accuracies", "stops"),
    [
        ((0.5, 0.5), False),  # one round without a gain
        ((0.5, 0.5, 0.4), True),  # two
        ((0.5, 0.4, 0.6), False),  # a gain after one without
        ((0.5, 0.4, 0.6, 0.6, 0.6), True),
        ((0.5, 0.54, 0.58), True),  # rises, but by less than min_gain each time
        ((0.5, 0.4, 0.46), True),  # a gain over the round before, not over the best
        ((0.5, 0.56, 0.62), False),
    ],
)
def test_stop_reason__patience(accuracies: tuple[float, ...], stops: bool) -> None:
    stop = StopConfig(rounds=None, patience=2, min_gain=0.05)
    reason = stop_reason(stop, rounds(*accuracies), unlabeled=5)
    assert reason == ("no gain in pgd accuracy for 2 rounds" if stops else None)


def test_stop_reason__patience_watches_its_metric() -> None:
    stop = StopConfig(rounds=None, patience=2, metric="clean")
    assert stop_reason(stop, rounds(0.1, 0.2, 0.3), unlabeled=5) == "no gain in clean accuracy for 2 rounds"


def test_stop_reason__a_standstill_is_no_gain_even_of_nothing() -> None:
    stop = StopConfig(rounds=None, patience=2, min_gain=0.0)
    assert stop_reason(stop, rounds(0.5, 0.5, 0.5), unlabeled=5) == "no gain in pgd accuracy for 2 rounds"
    assert stop_reason(stop, rounds(0.5, 0.5001, 0.5002), unlabeled=5) is None
