"""AutoAttack by its library: against exact robustness where it is known, and beside PGD."""

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import pgd
from dm2at_ray.algorithm.autoattack import attacks_for, autoattack
from dm2at_ray.errors import UserError
from dm2at_ray.models import ModelSpec


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of passes of a handful of tiny images: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def linear_scene(classes: int, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of 2 × 2 pixels, images in [0, 1], and the labels that it gives them."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(4, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 4, generator=generator))
        layer.bias.copy_(-layer.weight.sum(dim=1) / 2)
    model = nn.Sequential(nn.Flatten(), layer).eval()
    x = torch.rand(count, 1, 2, 2, generator=generator)
    return model, x, model(x).argmax(dim=1)


def exact_margins(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> np.ndarray:
    """Least lead (N,) of the label over any other class in the ball and in [0, 1], of a linear model."""
    weight, bias = (p.detach().double().numpy() for p in model[1].parameters())
    margins = []
    for image, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
        low, high = np.clip(image - epsilon, 0, 1), np.clip(image + epsilon, 0, 1)
        leads = []
        for other in set(range(len(bias))) - {label}:
            slope = weight[label] - weight[other]
            leads.append(np.where(slope > 0, low, high) @ slope + bias[label] - bias[other])
        margins.append(min(leads))
    return np.array(margins)


@pytest.mark.parametrize("classes", [3, 5])
def test_autoattack__breaks_exactly_what_can_be_broken(classes: int) -> None:
    model, x, y = linear_scene(classes, count=16)
    margins = exact_margins(model, x, y, epsilon=0.1)
    assert np.abs(margins).min() > 1e-4
    assert 0 < (margins > 0).sum() < len(x)

    x_adv = autoattack(model, x, y, 0.1, num_classes=classes, seed=0)

    assert (model(x_adv).argmax(dim=1) == y).tolist() == (margins > 0).tolist()
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6
    assert 0 <= x_adv.min() <= x_adv.max() <= 1


def test_autoattack__of_a_digits_model_breaks_what_pgd_breaks_and_more() -> None:
    digits = load_digits()
    x, y = torch.from_numpy(digits.images / 16).float()[:, None], torch.from_numpy(digits.target)
    model = ModelSpec("small_cnn", num_classes=10, channels=1, image_size=8).build(seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for rows in torch.randperm(1400, generator=torch.Generator().manual_seed(0)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()
    x, y, epsilon = x[1408:1416], y[1408:1416], 32 / 255

    after_pgd = model(pgd(model, x, y, epsilon, steps=20, step_size=epsilon / 8)).argmax(dim=1) == y
    generator_state = torch.random.get_rng_state()
    x_adv, again = (autoattack(model, x, y, epsilon, num_classes=10, seed=7) for _ in range(2))
    right = model(x_adv).argmax(dim=1) == y

    assert right.sum() < after_pgd.sum()
    assert not (right & ~after_pgd).any()
    assert x_adv.equal(again)
    # Neither the global random numbers nor the model show any trace of it.
    assert torch.random.get_rng_state().equal(generator_state)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_attacks_for__the_targeted_dlr_loss_needs_four_logits() -> None:
    assert attacks_for(4) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert attacks_for(3) == ["apgd-ce", "fab-t", "square"]


def test_autoattack__missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model, x, y = linear_scene(2, count=1)
    with pytest.raises(UserError, match=r"^attack autoattack: .*pip install 'dm2at-ray\[robust\]'$"):
        autoattack(model, x, y, 0.1, num_classes=2, seed=0)
