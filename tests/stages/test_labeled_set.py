"""The labeled set that a training starts with, read from the run directory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dm2at_ray.stages.labeled_set import read_labeled_set
from dm2at_ray.training import TrainSettings, validation
from dm2at_ray.training.validation import hold_out

from .digits_run import DigitsRun

WITH_TWINS = TrainSettings(adversaries="both")


def test_read_labeled_set__every_row_has_its_own_image_label_and_twin(digits_run: DigitsRun) -> None:
    labeled = read_labeled_set(digits_run.context(1), WITH_TWINS)
    first, second = digits_run.queries
    assert sorted(labeled.sample_ids.tolist()) == sorted([*first, *second])
    np.testing.assert_array_equal(labeled.images, digits_run.images[labeled.sample_ids])
    np.testing.assert_array_equal(labeled.labels, digits_run.labels[labeled.sample_ids])
    has_twin = labeled.twin_mask()
    assert set(labeled.sample_ids[has_twin]) == set(second)
    assert labeled.twins is not None
    expected = digits_run.twin_of(digits_run.images[labeled.sample_ids[has_twin]])
    np.testing.assert_array_equal(labeled.twins[has_twin], expected)


def test_read_labeled_set__a_round_sees_no_later_one(digits_run: DigitsRun) -> None:
    labeled = read_labeled_set(digits_run.context(0), WITH_TWINS)
    assert sorted(labeled.sample_ids.tolist()) == sorted(digits_run.queries[0])
    assert labeled.twins is None
    assert not labeled.twin_mask().any()


@pytest.mark.parametrize(
    "settings", [TrainSettings(adversaries="fresh"), replace(WITH_TWINS, clean_weight=1.0)]
)
def test_read_labeled_set__leaves_twins_alone_that_nothing_trains_on(
    digits_run: DigitsRun, settings: TrainSettings
) -> None:
    assert read_labeled_set(digits_run.context(1), settings).twins is None


def test_read_labeled_set__its_parts_need_no_copy(
    digits_run: DigitsRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "LEAST_LABELS", 10)
    monkeypatch.setattr(validation, "SHARE", 0.5)
    labeled = read_labeled_set(digits_run.context(1), WITH_TWINS)
    trained_on, held_out = hold_out(labeled, WITH_TWINS, seed=0)
    assert held_out is not None
    assert len(trained_on) + len(held_out) == len(labeled) == 20
    asked_for = np.concatenate([ids[::-1] for ids in digits_run.queries]).tolist()
    for part in (trained_on, held_out):
        assert np.shares_memory(part.images, labeled.images)
        assert np.shares_memory(part.twins, labeled.twins)
        in_order = [sample_id for sample_id in asked_for if sample_id in part.sample_ids]
        assert part.sample_ids.tolist() == in_order, "in which they were labeled"
