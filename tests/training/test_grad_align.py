from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.batch import load_batch
from dm2at_ray.training.draws import pixel_keys, pixel_uniforms
from dm2at_ray.training.grad_align import misalignment
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.step import train_step

LABELS = torch.tensor([0, 2, 1])


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)).double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def offsets() -> Tensor:
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double() - 0.5


def by_hand(net: nn.Module, images: Tensor, offsets: Tensor, labels: Tensor = LABELS) -> list[Tensor]:
    """One sample at a time: the gradients of a two-layer network written out."""
    first, second = net[1], net[3]
    values = []
    for image, offset, label in zip(images, offsets, labels, strict=True):
        gradients = []
        for point in (image.flatten(), (image + offset).flatten()):
            hidden = torch.tanh(first.weight @ point + first.bias)
            probabilities = torch.softmax(second.weight @ hidden + second.bias, dim=0)
            error = probabilities - F.one_hot(label, 4)
            gradients.append(first.weight.T @ ((1 - hidden**2) * (second.weight.T @ error)))
        a, b = gradients
        values.append(1 - (a @ b) / (a.norm() * b.norm()))
    return values


def test_misalignment__by_hand(net: nn.Module, images: Tensor, offsets: Tensor) -> None:
    ours = misalignment(net, images, LABELS, offsets)
    expected = torch.stack(by_hand(net, images, offsets))
    torch.testing.assert_close(ours, expected)
    assert (ours > 1e-3).all()

    ours_gradients = torch.autograd.grad(ours.sum(), net.parameters(), materialize_grads=True)
    expected_gradients = torch.autograd.grad(expected.sum(), net.parameters(), materialize_grads=True)
    for gradient, theirs in zip(ours_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, theirs)


def test_misalignment__0_for_a_linear_model(images: Tensor, offsets: Tensor) -> None:
    """Its two gradients have one direction where there are two classes."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    values = misalignment(linear, images, torch.tensor([0, 1, 1]), offsets)
    torch.testing.assert_close(values, torch.zeros(3).double(), atol=1e-9, rtol=0)


def test_misalignment__0_and_no_nan_without_a_direction() -> None:
    """The first sample's loss is flat; the second's gradient is so short that its square is 0 in float32."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [50.0, 1.0]]))
    images = torch.tensor([[0.0, 0.0], [1.1, 1.0]]).reshape(2, 1, 1, 2)
    net = nn.Sequential(nn.ReLU(), net)
    values = misalignment(net, images - 1e-3, torch.tensor([1, 1]), torch.zeros_like(images))
    assert values.tolist() == pytest.approx([0, 0], abs=1e-6)
    values.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())


@pytest.mark.parametrize("grad_align", [0.0, 0.7])
def test_train_step__grad_align_adds_its_gradient(
    grad_align: float, make_model: Callable[..., nn.Module], make_labeled: Callable[..., LabeledSet]
) -> None:
    labeled = make_labeled(6)
    settings = TrainSettings(grad_align=grad_align, attack="fgsm", epsilon=0.2)
    batch = load_batch(
        PlacedSet(labeled, torch.device("cpu")),
        torch.arange(6).numpy(),
        0,
        settings,
        seed=0,
        round_index=1,
        epoch=0,
    )
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
    weights = {name: tensor.clone() for name, tensor in smooth.state_dict().items()}
    gradients, totals = [], []
    for chosen in (settings, TrainSettings(attack="fgsm", epsilon=0.2)):
        smooth.load_state_dict(weights)
        optimizer = torch.optim.SGD(smooth.parameters(), lr=0.1)
        sums = train_step(smooth, smooth, optimizer, batch, chosen, global_count=6)
        gradients.append([parameter.grad.clone() for parameter in smooth.parameters()])
        totals.append(sums[6].item() / 6)

    smooth.load_state_dict(weights)
    keys = torch.from_numpy(pixel_keys(0, 1, 0, labeled.sample_ids))
    offsets = 0.2 * (2 * pixel_uniforms(~keys, 16).reshape(6, 1, 4, 4) - 1)
    penalty = grad_align * torch.stack(by_hand(smooth, batch.images, offsets, batch.labels)).mean()
    expected = torch.autograd.grad(penalty, smooth.parameters(), materialize_grads=True)
    assert totals[0] - totals[1] == pytest.approx(penalty.item(), abs=1e-6)
    for ours, without, added in zip(*gradients, expected, strict=True):
        torch.testing.assert_close(ours, without + added, rtol=1e-4, atol=1e-6)
