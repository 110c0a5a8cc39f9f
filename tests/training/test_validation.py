from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.training import LabeledSet, TrainSettings, train
from dm2at_ray.training.validation import epochs_between_looks, hold_out, measure, passes_of_a_sample

MakeLabeled = Callable[..., LabeledSet]
ADVERSARIAL = TrainSettings()
PLACE: dict[str, Any] = {"seed": 1, "round_index": 0, "rank": 0, "world_size": 1, "device": "cpu"}


def of_ids(ids: np.ndarray) -> LabeledSet:
    count = len(ids)
    return LabeledSet(ids, np.zeros((count, 1, 1, 1), np.uint8), np.zeros(count, np.int64))


def held_ids(ids: np.ndarray, settings: TrainSettings = ADVERSARIAL, seed: int = 1) -> set[int]:
    trained_on, held_out = hold_out(of_ids(ids), settings, seed)
    held = set() if held_out is None else set(held_out.sample_ids.tolist())
    trained = set(trained_on.sample_ids.tolist())
    assert not held & trained
    assert held | trained == set(ids.tolist())
    return held


def test_hold_out__about_a_tenth_by_each_samples_own_draw() -> None:
    ids = np.random.default_rng(0).permutation(10_000)[:2000]
    draws = uniform(1, 0, Stream.VALIDATION, ids, 1)[:, 0]
    assert held_ids(ids) == set(ids[draws < 0.1].tolist())
    assert 160 < len(held_ids(ids)) < 240
    assert held_ids(ids, seed=2) != held_ids(ids)


@pytest.mark.parametrize("validation", [256, 60])
def test_hold_out__nothing_that_was_trained_on_is_held_out_later(validation: int) -> None:
    settings = TrainSettings(validation=validation)
    ids = np.random.default_rng(3).permutation(20_000)
    before: set[int] | None = None
    for count in range(500, 12_000, 250):
        held = held_ids(ids[:count], settings)
        assert abs(len(held) - min(count / 10, validation)) < 5 * min(count / 10, validation) ** 0.5
        if before is not None:
            earlier = set(ids[: count - 250].tolist())
            assert held & earlier <= before
            if count <= 10 * validation:
                assert held & earlier == before, "as long as a tenth is held out, no sample changes sides"
        before = held


@pytest.mark.parametrize(
    ("count", "settings", "is_held_out"),
    [
        (499, {}, False),
        (500, {}, True),
        (500, {"validation": 0}, False),
        (500, {"clean_weight": 1.0}, False),
        (500, {"epsilon": 0.0}, False),
        (500, {"clean_weight": 1.0, "early_stop": 2}, True),
    ],
)
def test_hold_out__where_it_is_of_use(count: int, settings: dict[str, Any], is_held_out: bool) -> None:
    assert bool(held_ids(np.arange(count), TrainSettings(**settings))) == is_held_out


def test_hold_out__keeps_twins_with_their_samples(make_labeled: MakeLabeled) -> None:
    labeled = make_labeled(600, twins="half")
    trained_on, held_out = hold_out(labeled, ADVERSARIAL, 1)
    assert held_out is not None
    for part in (trained_on, held_out):
        rows = [labeled.sample_ids.tolist().index(each) for each in part.sample_ids.tolist()]
        np.testing.assert_array_equal(part.images, labeled.images[rows])
        np.testing.assert_array_equal(part.labels, labeled.labels[rows])
        np.testing.assert_array_equal(part.twin_mask(), labeled.twin_mask()[rows])
        np.testing.assert_array_equal(part.twins, labeled.twins[rows])  # type: ignore[index, arg-type]


class Recorder(nn.Module):
    """Notes the brightest pixel of every image that it is trained on: the sample's number, below."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)
        self.seen: set[int] = set()

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            marks = images[:, 0, 0, :2] * 255
            self.seen |= {round(high * 100 + low) for high, low in marks.tolist()}
        return self.head(images.flatten(1))


def test_train__never_trains_on_what_is_held_out() -> None:
    count = 600
    numbers = np.arange(count)
    images = np.full((count, 4, 4, 1), 100, np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers // 100, numbers % 100
    labeled = LabeledSet(numbers, images, numbers % 4)
    model = Recorder()
    settings = TrainSettings(epochs=2, min_steps=0, adversaries="stored", learning_rate=0.01)
    result = train(model, labeled, settings, seed=1, round_index=0)
    held = held_ids(numbers)
    assert model.seen == set(range(count)) - held
    assert result.stability.held_out == len(held) > 40
    assert result.images_seen == 2 * (count - len(held))
    assert {look.images for look in result.stability.looks} == {len(held)}


class Brightest(nn.Module):
    """Two classes by the one pixel of an image: is it above a half?"""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return torch.cat([0.5 - x, x - 0.5], dim=1)


def test_measure__a_pixel_within_epsilon_of_the_boundary_is_lost() -> None:
    # 51 / 255 = 0.2 from the boundary at 127.5: 0.4 is within 0.125, 0.2 is not, 0.9 is labeled wrongly.
    pixels = np.array([102, 51, 230, 204, 140], np.uint8).reshape(5, 1, 1, 1)
    labels = np.array([0, 0, 0, 1, 1])
    part = LabeledSet(np.arange(5), pixels, labels)
    model = Brightest().train()
    assert measure(model, part, 0.125, **PLACE) == (0.8, 0.4, 0.4)
    assert measure(model, part, 0.0, **PLACE) == (0.8, 0.8, 0.8)
    assert not model.training


def test_measure__workers_divide_the_images_and_agree(
    monkeypatch: pytest.MonkeyPatch, make_labeled: MakeLabeled, make_model: Any
) -> None:
    labeled, model = make_labeled(301), make_model()
    one = measure(model, labeled, 0.03, **PLACE)
    hits: list[Tensor] = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: hits.append(tensor.clone()))
    for rank in range(3):
        measure(model, labeled, 0.03, **{**PLACE, "rank": rank, "world_size": 3})
    assert len(hits) == 3, "one collective operation a worker"
    assert (torch.stack(hits).sum(dim=0) / 301).tolist() == pytest.approx(one, abs=1e-12)
    assert all(each[0] > 0 for each in hits)


def test_measure__does_not_depend_on_the_order_of_rows(make_labeled: MakeLabeled, make_model: Any) -> None:
    labeled, model = make_labeled(300), make_model(batch_norm=True)
    reverse = labeled.subset(np.arange(300)[::-1])
    measured = measure(model, labeled, 0.03, **PLACE)
    assert measure(model, reverse, 0.03, **PLACE) == pytest.approx(measured, abs=1e-12)
    assert 0 < measured[2] <= measured[1] <= measured[0] < 1


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"clean_weight": 1.0}, 2),
        ({"adversaries": "stored"}, 4),
        ({"attack": "fgsm"}, 6),
        ({"attack": "fgsm", "passes": "shared", "attack_mode": "train"}, 4),
        ({"attack": "rs_fgsm", "attack_label": "predicted"}, 7),
        ({"attack": "rs_fgsm", "clean_weight": 0.0}, 4),
        ({"attack": "pgd", "attack_steps": 10}, 24),
        ({"attack": "rs_fgsm", "adversaries": "both"}, 8),
    ],
)
def test_passes_of_a_sample(settings: dict[str, Any], passes: int) -> None:
    assert passes_of_a_sample(TrainSettings(**settings)) == passes


def test_epochs_between_looks__a_look_costs_a_tenth_of_the_training_between() -> None:
    # 25 passes for each of 100 held-out images against 6 for each of 900: 2,500 of 5,400 an epoch.
    rs_fgsm, pgd = TrainSettings(attack="rs_fgsm"), TrainSettings(attack="pgd", attack_steps=10)
    assert epochs_between_looks(rs_fgsm, 900, 100) == 5
    assert epochs_between_looks(pgd, 900, 100) == 2
    assert epochs_between_looks(pgd, 60_000, 256) == 1
