from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from dm2at_ray.training import TrainSettings
from dm2at_ray.training.adversaries import evaluating, fresh_adversaries

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


def test_evaluating__restores_each_module() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
    model.train()
    model[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True]
