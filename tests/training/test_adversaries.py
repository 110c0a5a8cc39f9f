from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from dm2at_ray.training import TrainSettings
from dm2at_ray.training.adversaries import fresh_adversaries

EPSILON = 0.1
MakeModel = Callable[..., nn.Module]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


LABELS = torch.tensor([0, 1, 2, 3, 0])
KEYS = torch.arange(5)


@pytest.mark.parametrize("attack", ["fgsm", "rs_fgsm", "n_fgsm", "pgd"])
def test_fresh_adversaries__raise_the_loss_within_reach(
    attack: str, images: Tensor, make_model: MakeModel
) -> None:
    model = make_model(batch_norm=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = TrainSettings(attack=attack, epsilon=EPSILON)  # type: ignore[arg-type]
    adversaries = fresh_adversaries(model, images, LABELS, KEYS, settings)

    reach = 3 * EPSILON if attack == "n_fgsm" else EPSILON
    farthest = (adversaries - images).abs().max().item()
    assert farthest <= reach + 1e-6
    assert (farthest > EPSILON + 1e-3) == (attack == "n_fgsm")
    assert 0 <= adversaries.min() <= adversaries.max() <= 1
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    losses = nn.CrossEntropyLoss(reduction="none")
    assert (losses(model(adversaries), LABELS) > losses(model(images), LABELS)).all()


def test_fresh_adversaries__fgsm_is_torchattacks_in_eval_mode(images: Tensor, make_model: MakeModel) -> None:
    model = make_model(batch_norm=True)
    model(images * 2)  # statistics that differ from the batch's
    ours = fresh_adversaries(model, images, LABELS, KEYS, TrainSettings(attack="fgsm", epsilon=EPSILON))
    theirs = torchattacks.FGSM(model.eval(), eps=EPSILON)(images, LABELS)
    torch.testing.assert_close(ours, theirs)


def test_fresh_adversaries__predicted_label_ignores_the_true_one(
    images: Tensor, make_model: MakeModel
) -> None:
    model = make_model().eval()
    predicted = model(images).argmax(dim=1)
    settings = TrainSettings(attack="fgsm", attack_label="predicted")
    ours = fresh_adversaries(model, images, (predicted + 1) % 4, KEYS, settings)
    expected = fresh_adversaries(model, images, predicted, KEYS, TrainSettings(attack="fgsm"))
    assert torch.equal(ours, expected)


def test_fresh_adversaries__random_start_follows_the_key(images: Tensor, make_model: MakeModel) -> None:
    settings = TrainSettings(attack="rs_fgsm", epsilon=EPSILON)
    model = make_model()
    first = fresh_adversaries(model, images, LABELS, KEYS, settings)
    assert torch.equal(first, fresh_adversaries(model, images, LABELS, KEYS, settings))
    alone = fresh_adversaries(model, images[2:3], LABELS[2:3], KEYS[2:3], settings)
    torch.testing.assert_close(alone[0], first[2])
    assert not torch.equal(first, fresh_adversaries(model, images, LABELS, KEYS + 1, settings))


def test_fresh_adversaries__train_mode_attacks_the_statistics_of_the_batch(
    images: Tensor, make_model: MakeModel
) -> None:
    model = make_model(batch_norm=True).train()
    model(images * 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = TrainSettings(attack="fgsm", attack_mode="train", epsilon=EPSILON)
    ours = fresh_adversaries(model, images, LABELS, KEYS, settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    points = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(points), LABELS).backward()
    assert points.grad is not None
    torch.testing.assert_close(ours, (images + EPSILON * points.grad.sign()).clamp(0, 1))
    in_eval = fresh_adversaries(model, images, LABELS, KEYS, TrainSettings(attack="fgsm", epsilon=EPSILON))
    assert not torch.equal(ours, in_eval)


def test_fresh_adversaries__dropout_draws_after_the_attack_what_it_drew_in_it(
    images: Tensor, make_model: MakeModel
) -> None:
    model = make_model(dropout=True).train()
    settings = TrainSettings(attack="fgsm", attack_mode="train", epsilon=EPSILON)
    torch.manual_seed(5)
    expected = model(images)
    torch.manual_seed(5)
    fresh_adversaries(model, images, LABELS, KEYS, settings)
    assert torch.equal(model(images), expected)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("attack", ["fgsm", "rs_fgsm", "n_fgsm", "pgd"])
def test_fresh_adversaries__epsilon_zero_gives_the_images(
    attack: Any, mode: Any, images: Tensor, make_model: MakeModel
) -> None:
    settings = TrainSettings(attack=attack, attack_mode=mode, epsilon=EPSILON)
    model = make_model(batch_norm=True).train()
    assert torch.equal(fresh_adversaries(model, images, LABELS, KEYS, settings, epsilon=0.0), images)


pixels = arrays(np.float32, (2, 1, 4, 4), elements=st.floats(0, 1, width=32))


@given(
    pixels, st.floats(0, 1, width=32), st.sampled_from(["fgsm", "rs_fgsm", "n_fgsm", "pgd"]), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_fresh_adversaries__never_leave_the_ball_nor_the_pixels(
    values: np.ndarray, epsilon: float, attack: Any, train_mode: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).train()
    clean = torch.from_numpy(values)
    chosen = TrainSettings(attack=attack, attack_steps=3, attack_mode="train" if train_mode else "eval")
    twins = fresh_adversaries(model, clean, LABELS[:2], KEYS[:2], chosen, epsilon=epsilon)
    assert twins.min() >= 0
    assert twins.max() <= 1
    if attack != "n_fgsm":
        assert (twins - clean).abs().max().item() <= epsilon


@given(arrays(np.uint8, (2, 4, 4, 1)), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_fresh_adversaries__of_8_bit_images_are_8_bit_images(values: np.ndarray, m: int) -> None:
    """With ε = m/255 plain FGSM gives whole multiples of 1/255, and uint8 keeps them exactly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    clean = torch.from_numpy(values).permute(0, 3, 1, 2).float() / 255
    twins = fresh_adversaries(
        model, clean, LABELS[:2], KEYS[:2], TrainSettings(attack="fgsm"), epsilon=m / 255
    )
    stored = (twins * 255).round().to(torch.uint8)
    torch.testing.assert_close(stored.float() / 255, twins, rtol=0, atol=1e-6)
    steps = stored.int() - torch.from_numpy(values).permute(0, 3, 1, 2).int()
    assert steps.abs().max() <= m
    inside = (stored > 0) & (stored < 255)
    assert (steps.abs()[inside] == m).all()
