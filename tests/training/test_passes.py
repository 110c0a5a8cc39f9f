"""Forward and backward passes: how many, of what, and that their kinds agree where they should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import fgsm
from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.batch import load_batch
from dm2at_ray.training.order import epoch_order
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.step import train_step

MakeModel = Callable[..., nn.Module]
MakeLabeled = Callable[..., LabeledSet]
EPSILON = 8 / 255
SHAREABLE: dict[str, Any] = {"attack": "fgsm", "attack_mode": "train", "epsilon": EPSILON, "batch_size": 8}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def run(model: nn.Module, labeled: LabeledSet, settings: TrainSettings, epochs: int = 4) -> list[list[float]]:
    """Train in place, and return each step's sums."""
    model.train()
    optimizer = optimizer_of(model)
    sums = []
    torch.manual_seed(11)
    for epoch in range(epochs):
        order = epoch_order(labeled.sample_ids, settings.batch_size, seed=0, round_index=1, epoch=epoch)
        for step in range(order.steps):
            rows = order.global_batch(step)
            place: dict[str, Any] = {
                "seed": 0,
                "round_index": 1,
                "epoch": epoch,
            }
            batch = load_batch(PlacedSet(labeled, torch.device("cpu")), rows, int(rows[0]), settings, **place)
            sums.append(train_step(model, model, optimizer, batch, settings, global_count=len(rows)).tolist())
    return sums


def pixels_and_labels(labeled: LabeledSet, epoch: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    order = epoch_order(labeled.sample_ids, batch_size, seed=0, round_index=1, epoch=epoch)
    rows = [order.global_batch(step) for step in range(order.steps)]
    return [
        (
            torch.from_numpy(labeled.images[r].transpose(0, 3, 1, 2).copy()).float() / 255,
            torch.from_numpy(labeled.labels[r]),
        )
        for r in rows
    ]


def assert_same_state(ours: nn.Module, theirs: nn.Module, *, rounding: bool = False) -> None:
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        if rounding:
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=2e-6)
        else:
            assert torch.equal(tensor, expected[name]), name


def count_passes(model: nn.Module, labeled: LabeledSet, settings: TrainSettings) -> tuple[list[int], int]:
    """Batch sizes of one step's forward passes, and its backward passes."""
    sizes: list[int] = []
    backwards = 0

    def count_backward(gradient: Tensor) -> None:
        nonlocal backwards
        backwards += 1

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(len(inputs[0]))
        output.register_hook(count_backward)

    handle = model.register_forward_hook(hook)
    run(model, labeled, settings, epochs=1)
    handle.remove()
    return sizes, backwards


@pytest.mark.parametrize(
    ("chosen", "sizes"),
    [
        ({"passes": "joint"}, [8, 16]),
        ({"passes": "two"}, [8, 8, 8]),
        ({"passes": "shared"}, [8, 8]),
        ({"passes": "two", "clean_weight": 0.0}, [8, 8]),
        ({"passes": "shared", "clean_weight": 0.0}, [8, 8]),
        ({"passes": "shared", "clean_weight": 1.0}, [8]),
        ({"passes": "two", "adversaries": "both"}, [8, 8, 12]),  # every second sample has a twin
        ({"passes": "two", "adversaries": "stored", "clean_weight": 0.0}, [4, 4]),
        ({"passes": "two", "grad_align": 0.2}, [8, 8, 8, 8, 8]),
    ],
)
def test_passes__no_more_than_it_takes(
    chosen: Any, sizes: list[int], make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    settings = TrainSettings(**{**SHAREABLE, **chosen})
    seen, backwards = count_passes(make_model(batch_norm=True), make_labeled(8, twins="half"), settings)
    assert seen == sizes
    if settings.grad_align == 0:
        assert backwards == len(sizes)


@pytest.mark.parametrize("clean_weight", [0.0, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("dropout", [False, True])
def test_shared__is_two(
    clean_weight: float, dropout: bool, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    """Weights, losses and running statistics, which both move twice a step (once for λ of 0 or 1)."""
    labeled = make_labeled(21)
    models = {}
    sums = {}
    for passes in ("two", "shared"):
        models[passes] = make_model(batch_norm=True, dropout=dropout)
        settings = TrainSettings(passes=passes, clean_weight=clean_weight, **SHAREABLE)  # type: ignore[arg-type]
        sums[passes] = run(models[passes], labeled, settings)
    assert len(sums["two"]) == 12
    np.testing.assert_allclose(sums["shared"], sums["two"], rtol=2e-5)
    assert_same_state(models["shared"], models["two"], rounding=True)
    moved = models["shared"].state_dict()["1.num_batches_tracked"].item()
    assert moved == (24 if 0 < clean_weight < 1 else 12)


def test_shared__is_not_two_in_eval_mode(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    """The test above could tell them apart."""
    labeled = make_labeled(21)
    eval_mode = {**SHAREABLE, "attack_mode": "eval"}
    two = run(make_model(batch_norm=True), labeled, TrainSettings(passes="two", **eval_mode))
    shared = run(make_model(batch_norm=True), labeled, TrainSettings(passes="shared", **SHAREABLE))
    assert not np.allclose(shared, two, rtol=1e-3)


@pytest.mark.parametrize("passes", ["joint", "two", "shared"])
def test_passes__clean_weight_1_is_clean_training_bit_by_bit(
    passes: Any, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    labeled = make_labeled(21, twins="all")
    plain = make_model(batch_norm=True).train()
    optimizer = optimizer_of(plain)
    for epoch in range(4):
        for images, labels in pixels_and_labels(labeled, epoch, 8):
            optimizer.zero_grad()
            F.cross_entropy(plain(images), labels).backward()
            optimizer.step()
    model = make_model(batch_norm=True)
    run(model, labeled, TrainSettings(passes=passes, clean_weight=1.0, grad_align=0.2, **SHAREABLE))
    assert_same_state(model, plain)


@pytest.mark.parametrize("passes", ["joint", "two", "shared"])
def test_passes__clean_weight_0_is_adversarial_training_bit_by_bit(
    passes: Any, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    labeled = make_labeled(21)
    plain = make_model(batch_norm=True).train()
    optimizer = optimizer_of(plain)
    for epoch in range(4):
        for images, labels in pixels_and_labels(labeled, epoch, 8):
            buffers = [buffer.clone() for buffer in plain.buffers()]
            adversaries = fgsm(plain, images, labels, EPSILON)
            for buffer, before in zip(plain.buffers(), buffers, strict=True):
                buffer.copy_(before)
            optimizer.zero_grad()
            F.cross_entropy(plain(adversaries), labels).backward()
            optimizer.step()
    model = make_model(batch_norm=True)
    run(model, labeled, TrainSettings(passes=passes, clean_weight=0.0, **SHAREABLE))
    assert_same_state(model, plain)


@pytest.mark.parametrize("adversaries", ["stored", "fresh", "both"])
@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 1.0])
def test_two__is_joint_without_batch_norm(
    adversaries: Any, clean_weight: float, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    labeled = make_labeled(21, twins="half")
    chosen = {**SHAREABLE, "adversaries": adversaries, "clean_weight": clean_weight}
    joint, two = make_model(), make_model()
    expected = run(joint, labeled, TrainSettings(passes="joint", **chosen))
    np.testing.assert_allclose(run(two, labeled, TrainSettings(passes="two", **chosen)), expected, rtol=2e-5)
    assert_same_state(two, joint, rounding=True)


@pytest.mark.parametrize("passes", ["joint", "two", "shared"])
def test_train_step__epsilon_of_the_step(
    passes: Any, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    """With ε = 0 both halves are the same images."""
    labeled = make_labeled(8)
    settings = TrainSettings(passes=passes, grad_align=0.2, **SHAREABLE)
    batch = load_batch(
        PlacedSet(labeled, torch.device("cpu")), np.arange(8), 0, settings, seed=0, round_index=1, epoch=0
    )
    sums = []
    for epsilon in (0.0, EPSILON, None):
        model = make_model(batch_norm=True).train()
        step = train_step(model, model, optimizer_of(model), batch, settings, global_count=8, epsilon=epsilon)
        sums.append(step.tolist())
    assert sums[0][:3] == pytest.approx(sums[0][3:6], rel=1e-6)
    assert sums[1][3] > 1.05 * sums[1][0]
    assert sums[2] == sums[1]
