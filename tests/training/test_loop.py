from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dm2at_ray.models.small_cnn import small_cnn
from dm2at_ray.training import (
    EpochReport,
    LabeledSet,
    LossMeans,
    NonFiniteLossError,
    TrainSettings,
    TrainState,
    loop,
    train,
)
from dm2at_ray.training.order import epoch_order

MakeModel = Callable[..., nn.Module]
MakeLabeled = Callable[..., LabeledSet]
PLACE: dict[str, Any] = {"seed": 0, "round_index": 3}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_train__clean_weight_1_is_a_plain_loop_bit_by_bit(
    batch_norm: bool, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    labeled = make_labeled(21, twins="all")
    plain = make_model(batch_norm=batch_norm).train()
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=True
    )
    for epoch in range(3):
        order = epoch_order(labeled.sample_ids, 8, **PLACE, epoch=epoch)
        for step in range(3):
            rows = order.global_batch(step)
            images = torch.from_numpy(labeled.images[rows]).permute(0, 3, 1, 2).float() / 255
            optimizer.zero_grad()
            F.cross_entropy(plain(images), torch.from_numpy(labeled.labels[rows])).backward()
            optimizer.step()

    settings = TrainSettings(
        epochs=3,
        min_steps=0,
        batch_size=8,
        learning_rate=0.05,
        weight_decay=1e-3,
        schedule="constant",
        clean_weight=1.0,
    )
    model = make_model(batch_norm=batch_norm)
    result = train(model, labeled, settings, **PLACE)
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.state_dict().items())
    assert (result.adversarial_accuracy, result.loss.adversarial) == (None, None)
    assert (result.steps, result.images_seen) == (9, 63)


def test_train__reports(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    reports: list[EpochReport] = []
    steps: list[tuple[int, int]] = []
    model = make_model()

    def on_epoch(report: EpochReport, make_state: Callable[[], TrainState]) -> None:
        reports.append(report)

    def on_step(done: int, total: int, means: LossMeans) -> None:
        steps.append((done, total))

    settings = TrainSettings(epochs=5, min_steps=0, batch_size=2, checkpoint_every=2, learning_rate=0.05)
    result = train(model, make_labeled(24), settings, **PLACE, on_epoch=on_epoch, on_step=on_step)
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    assert [report.checkpoint_due for report in reports] == [False, True, False, True, True]
    assert steps == [(done, 60) for epoch in range(5) for done in (12 * epoch + 10, 12 * epoch + 12)]
    assert reports[0].loss.total > 2 * result.loss.total
    assert result.loss == reports[-1].loss
    assert result.clean_accuracy == 1
    assert result.images_seen == 5 * 24 * 2
    assert result.images_per_second == pytest.approx(result.images_seen / result.seconds)
    assert not model.training
    assert EpochReport.from_json(reports[-1].to_json()) == reports[-1]


def test_train__row_order_does_not_matter(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    labeled = make_labeled(12, twins="half")
    flipped = LabeledSet(
        labeled.sample_ids[::-1],
        labeled.images[::-1],
        labeled.labels[::-1],
        labeled.twins[::-1] if labeled.twins is not None else None,
        labeled.twin_mask()[::-1],
    )
    settings = TrainSettings(epochs=2, min_steps=0, batch_size=5, adversaries="both", augment="shift")
    models = [make_model(), make_model()]
    for model, given in zip(models, (labeled, flipped), strict=True):
        train(model, given, settings, **PLACE)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_train__leaves_the_global_generator_alone(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    model = make_model(dropout=True)
    before = torch.get_rng_state()
    train(model, make_labeled(4), TrainSettings(epochs=1, min_steps=0), **PLACE)
    assert torch.equal(torch.get_rng_state(), before)


def test_train__one_labeled_sample(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4))
    result = train(model, make_labeled(1), TrainSettings(epochs=2, min_steps=0, clean_weight=1.0), **PLACE)
    assert result.images_seen == 2
    with pytest.raises(ValueError, match="empty"):
        train(make_model(), make_labeled(0), TrainSettings(), **PLACE)


def test_train__non_finite_loss_names_the_batch(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    labeled = make_labeled(30)
    settings = TrainSettings(batch_size=10, learning_rate=1e30, schedule="constant")
    with pytest.raises(NonFiniteLossError, match="lower the learning rate") as caught:
        train(make_model(), labeled, settings, **PLACE)
    error = caught.value
    assert (error.round_index, error.epoch, error.step) == (3, 0, 1)
    order = epoch_order(labeled.sample_ids, 10, **PLACE, epoch=0)
    assert error.sample_ids == labeled.sample_ids[order.global_batch(1)].tolist()
    assert str(error).startswith("loss is not finite in round 3, epoch 0, step 1 of it (samples ")
    assert "and 2 more" in str(error)


def test_train__weights_that_the_last_step_spoilt_are_no_checkpoint(
    make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    """The loss of the only step of an epoch is fine; what the step leaves is not."""
    settings = TrainSettings(
        epochs=2, min_steps=0, batch_size=30, learning_rate=1e39, schedule="constant", weight_decay=0.0
    )
    epochs: list[int] = []
    with pytest.raises(NonFiniteLossError, match="the weights are not finite in round 3, epoch 0, step 0"):
        train(
            make_model(),
            make_labeled(30),
            settings,
            **PLACE,
            on_epoch=lambda report, make_state: epochs.append(report.epoch),
        )
    assert epochs == []


@pytest.mark.parametrize(("steps", "per_epoch"), [(1, [1]), (3, [3]), (4, [3, 4]), (8, [3, 6, 8])])
def test_train__steps_in_place_of_epochs(
    steps: int, per_epoch: list[int], make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    seen: list[int] = []
    told: list[tuple[int, int]] = []
    result = train(
        make_model(),
        make_labeled(24),
        TrainSettings(steps=steps, batch_size=8, learning_rate=0.05, clean_weight=1.0),
        **PLACE,
        on_epoch=lambda report, make_state: seen.append(report.steps),
        on_step=lambda done, total, means: told.append((done, total)),
    )
    assert seen == per_epoch
    assert told == [(done, steps) for done in per_epoch]
    assert (result.steps, result.images_seen, result.epochs) == (steps, 8 * steps, len(per_epoch))


def test_train__epsilon_rises(
    make_model: MakeModel, make_labeled: MakeLabeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, epsilons = loop.train_step, []

    def noted(*arguments: Any, epsilon: float, **more: Any) -> Tensor:
        epsilons.append(epsilon)
        return step(*arguments, epsilon=epsilon, **more)

    monkeypatch.setattr(loop, "train_step", noted)
    settings = TrainSettings(epochs=4, min_steps=0, batch_size=12, epsilon=0.5, epsilon_warmup=0.5)
    train(make_model(), make_labeled(24), settings, **PLACE)
    assert epsilons == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5]


def test_non_finite_loss_error__survives_the_way_between_processes() -> None:
    error = NonFiniteLossError(1, 2, 3, [4, 5])
    assert str(copy.copy(error)) == str(error)  # takes the way that serializers take


def test_train__plain_fgsm_collapses_and_is_caught() -> None:
    """At this radius the one step is learned by heart within 8 epochs: FGSM accuracy rises, PGD's stays 0."""
    digits = load_digits()
    images = (digits.images[:900] / 16 * 255).astype(np.uint8)[..., None]
    torch.manual_seed(0)
    model = small_cnn(10, in_channels=1, image_size=8)
    settings = TrainSettings(steps=117, attack="fgsm", epsilon=0.3, on_collapse="switch_attack")
    labeled = LabeledSet(np.arange(900), images, digits.target[:900].astype(np.int64))
    stability = train(model, labeled, settings, **PLACE).stability
    caught = next(look for look in stability.looks if look.answer is not None)
    assert caught.collapse == "overfitting"
    assert caught.fgsm > 0.2 > 10 * caught.pgd
    assert stability.attack in ("n_fgsm", "pgd")


def test_train__learns_digits() -> None:
    digits = load_digits()
    shuffled = np.random.default_rng(0).permutation(len(digits.images))
    images = (digits.images[shuffled] / 16 * 255).astype(np.uint8)[..., None]  # (N, 8, 8, 1)
    labels = digits.target[shuffled].astype(np.int64)
    torch.manual_seed(0)
    model = small_cnn(10, in_channels=1, image_size=8)
    settings = TrainSettings(epochs=20, min_steps=0)
    result = train(model, LabeledSet(np.arange(400), images[:400], labels[:400]), settings, **PLACE)
    rest = torch.from_numpy(images[400:]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        hits = model(rest).argmax(dim=1).numpy() == labels[400:]
    assert result.clean_accuracy is not None
    assert result.clean_accuracy > 0.99
    assert hits.mean() >= 0.93
