import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dm2at_ray.algorithm.losses import combined_loss

CLEAN = torch.tensor([1.0, 2.0, 4.0])
ADVERSARIAL = torch.tensor([3.0, 6.0, 8.0])


def test_combined_loss__by_hand() -> None:
    loss = combined_loss(CLEAN, ADVERSARIAL, clean_weight=0.25)

    assert loss.clean.item() == pytest.approx(7 / 3)
    assert loss.adversarial.item() == pytest.approx(17 / 3)
    assert loss.total.item() == pytest.approx((0.25 * 7 + 0.75 * 17) / 3)


def test_combined_loss__weights_and_missing_twins_by_hand() -> None:
    loss = combined_loss(
        CLEAN,
        ADVERSARIAL,
        clean_weight=0.5,
        weights=torch.tensor([1.0, 3.0, 0.0]),
        has_adversarial=torch.tensor([True, False, True]),
    )

    assert loss.total.item() == (1 * (0.5 * 1 + 0.5 * 3) + 3 * 2) / 4
    assert loss.clean.item() == (1 * 1 + 3 * 2) / 4
    assert loss.adversarial.item() == 3


def test_combined_loss__clean_only() -> None:
    without = combined_loss(CLEAN, None, clean_weight=1.0)
    beside = combined_loss(CLEAN, ADVERSARIAL, clean_weight=1.0)

    assert without.total == beside.total == CLEAN.mean()
    assert without.adversarial is None
    assert beside.adversarial == ADVERSARIAL.mean()


def test_combined_loss__adversarial_only() -> None:
    assert combined_loss(CLEAN, ADVERSARIAL, clean_weight=0.0).total == ADVERSARIAL.mean()


def test_combined_loss__losses_of_missing_twins_are_ignored() -> None:
    adversarial = torch.tensor([3.0, torch.nan, torch.inf])
    has_adversarial = torch.tensor([True, False, False])

    loss = combined_loss(CLEAN, adversarial, 0.5, has_adversarial=has_adversarial)

    assert loss.total.item() == pytest.approx((2 + 2 + 4) / 3)
    assert loss.adversarial.item() == 3


def test_combined_loss__no_twins_at_all() -> None:
    loss = combined_loss(CLEAN, ADVERSARIAL, 0.5, has_adversarial=torch.zeros(3, dtype=torch.bool))

    assert loss.total == CLEAN.mean()
    assert loss.adversarial == 0


def test_combined_loss__a_batch_of_padding() -> None:
    clean = CLEAN.clone().requires_grad_()

    loss = combined_loss(clean, ADVERSARIAL, 0.5, weights=torch.zeros(3))
    loss.total.backward()

    assert loss.total == 0
    assert clean.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 1.0])
def test_combined_loss__gradient_agrees_with_a_loop_over_samples(clean_weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, x_adv = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.tensor([0, 2, 1, 1, 0])
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.5], dtype=torch.float64)
    has_adversarial = torch.tensor([True, False, True, True, False])
    parameters = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    loss = combined_loss(
        F.cross_entropy(x @ parameters, y, reduction="none"),
        F.cross_entropy(x_adv @ parameters, y, reduction="none"),
        clean_weight,
        weights=weights,
        has_adversarial=has_adversarial,
    )
    (gradient,) = torch.autograd.grad(loss.total, parameters)

    expected = torch.zeros_like(parameters)
    for i in range(5):
        share = clean_weight if has_adversarial[i] else 1.0
        for image, part in ((x[i], share), (x_adv[i], 1 - share)):
            expected += weights[i] / 5 * part * softmax_gradient(image, y[i], parameters.detach())
    torch.testing.assert_close(gradient, expected)
    assert not loss.clean.requires_grad
    assert not loss.adversarial.requires_grad


def softmax_gradient(x: Tensor, y: Tensor, parameters: Tensor) -> Tensor:
    """d cross_entropy(x W, y) / dW = x (softmax(x W) − onehot(y))ᵀ."""
    residual = torch.exp(x @ parameters) / torch.exp(x @ parameters).sum()
    residual[y] -= 1
    return torch.outer(x, residual)


def test_combined_loss__impossible_arguments() -> None:
    with pytest.raises(ValueError, match=r"clean_weight is 1\.5"):
        combined_loss(CLEAN, ADVERSARIAL, 1.5)
    with pytest.raises(ValueError, match="adversarial losses are needed"):
        combined_loss(CLEAN, None, 0.5)
