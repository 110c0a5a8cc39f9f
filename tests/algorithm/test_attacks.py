import copy

import numpy as np
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import fgsm, pgd, predicted_labels, random_start
from dm2at_ray.algorithm.counter_rng import Stream, uniform

EPSILON = 8 / 255


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).eval()


@pytest.fixture
def x() -> Tensor:
    images = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images[0, 0, 0] = 0.0
    images[0, 0, 1] = 1.0
    return images


@pytest.fixture
def y() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0])


def linear_model(direction: Tensor) -> nn.Module:
    """Two classes, told apart by the sum of direction times pixel: the gradient's signs are known."""
    layer = nn.Linear(direction.numel(), 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([direction.flatten(), -direction.flatten()]))
    return nn.Sequential(nn.Flatten(), layer)


def test_fgsm__by_hand() -> None:
    model = linear_model(torch.tensor([2.0, -1.0, 0.0, 1.0]))
    x = torch.tensor([[[[0.5, 0.5, 0.5, 0.125]]]])

    # Away from class 0 is against the direction; a pixel without a gradient stays, [0, 1] is kept.
    assert fgsm(model, x, torch.tensor([0]), 0.25).tolist() == [[[[0.25, 0.75, 0.5, 0.0]]]]
    assert fgsm(model, x, torch.tensor([1]), 0.25).tolist() == [[[[0.75, 0.25, 0.5, 0.375]]]]


def test_fgsm__agrees_with_torchattacks(model: nn.Module, x: Tensor, y: Tensor) -> None:
    expected = torchattacks.FGSM(model, eps=EPSILON)(x, y)

    assert (expected - x).abs().max() > 0.03
    torch.testing.assert_close(fgsm(model, x, y, EPSILON), expected, atol=1e-6, rtol=0)


def test_fgsm__random_start_agrees_with_torchattacks_ffgsm(model: nn.Module, x: Tensor, y: Tensor) -> None:
    torch.manual_seed(5)
    start = torch.randn_like(x).uniform_(-EPSILON, EPSILON)
    torch.manual_seed(5)
    expected = torchattacks.FFGSM(model, eps=EPSILON, alpha=10 / 255)(x, y)

    actual = fgsm(model, x, y, EPSILON, start, step_size=10 / 255)

    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_fgsm__unprojected_goes_on_from_its_start() -> None:
    model = linear_model(torch.ones(3))
    x = torch.tensor([[[[0.5, 0.5, 0.9375]]]])
    start = torch.tensor([[[[0.25, -0.25, 0.25]]]])

    noisy = fgsm(model, x, torch.tensor([1]), 0.125, start, project=False)
    projected = fgsm(model, x, torch.tensor([1]), 0.125, start)

    assert noisy.tolist() == [[[[0.875, 0.375, 1.0]]]]
    assert projected.tolist() == [[[[0.625, 0.375, 1.0]]]]


@pytest.mark.parametrize("steps", [1, 7])
def test_pgd__agrees_with_torchattacks(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    attack = torchattacks.PGD(model, eps=EPSILON, alpha=2 / 255, steps=steps, random_start=False)

    actual = pgd(model, x, y, EPSILON, steps=steps, step_size=2 / 255)

    torch.testing.assert_close(actual, attack(x, y), atol=1e-6, rtol=0)


def test_pgd__agrees_with_torchattacks_from_the_same_start(model: nn.Module, x: Tensor, y: Tensor) -> None:
    torch.manual_seed(5)
    start = torch.empty_like(x).uniform_(-EPSILON, EPSILON)
    torch.manual_seed(5)
    expected = torchattacks.PGD(model, eps=EPSILON, alpha=2 / 255, steps=5, random_start=True)(x, y)

    actual = pgd(model, x, y, EPSILON, steps=5, step_size=2 / 255, start=start)

    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_pgd__one_full_step_is_fgsm(model: nn.Module, x: Tensor, y: Tensor) -> None:
    one_step = pgd(model, x, y, EPSILON, steps=1, step_size=EPSILON)

    assert torch.equal(one_step, fgsm(model, x, y, EPSILON))


def test_attacks__raise_the_loss(model: nn.Module, x: Tensor, y: Tensor) -> None:
    def loss(images: Tensor) -> float:
        return nn.functional.cross_entropy(model(images), y).item()

    one_step = fgsm(model, x, y, EPSILON)

    assert loss(x) < loss(one_step) < loss(pgd(model, x, y, EPSILON, steps=20, step_size=2 / 255)) + 1e-6


unit_interval = st.floats(0, 1, width=32)
pixels = arrays(np.float32, (1, 1, 2, 4), elements=unit_interval)


@given(pixels, pixels, arrays(np.float32, 8, elements=st.floats(-1, 1, width=32)), unit_interval)
@settings(max_examples=100, deadline=None)
def test_attacks__stay_in_the_ball_exactly(
    image: np.ndarray, uniforms: np.ndarray, direction: np.ndarray, epsilon: float
) -> None:
    x, y = torch.from_numpy(image), torch.tensor([0])
    model = linear_model(torch.from_numpy(direction))
    start = random_start(x, epsilon, torch.from_numpy(uniforms))

    results = [
        fgsm(model, x, y, epsilon),
        fgsm(model, x, y, epsilon, start, step_size=1.25 * epsilon),
        pgd(model, x, y, epsilon, steps=2, step_size=epsilon, start=start),
    ]

    assert start.abs().max() <= epsilon
    for x_adv in results:
        assert (x_adv - x).abs().max() <= epsilon
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@pytest.mark.parametrize("m", [1, 2, 4, 8])
def test_fgsm__twins_of_8_bit_images_are_8_bit_images(m: int) -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    direction = torch.tensor([1.0, -1.0, 0.0]).repeat(86)[:256]

    x_adv = fgsm(linear_model(direction), levels.float() / 255, torch.tensor([0]), m / 255)

    stored = (x_adv * 255).round().to(torch.uint8)
    expected = (levels.int().flatten() - m * direction.int()).clamp(0, 255)
    assert stored.flatten().tolist() == expected.tolist()
    torch.testing.assert_close(stored.float() / 255, x_adv, atol=1e-7, rtol=0)


@pytest.mark.parametrize("image", ["x", "edges"])
def test_attacks__epsilon_zero_returns_the_image(model: nn.Module, x: Tensor, y: Tensor, image: str) -> None:
    x = x if image == "x" else x.round()

    assert torch.equal(fgsm(model, x, y, 0.0), x)
    assert torch.equal(pgd(model, x, y, 0.0, steps=2, step_size=0.1), x)


def test_attacks__leave_an_eval_model_as_it_was(model: nn.Module, x: Tensor, y: Tensor) -> None:
    before = copy.deepcopy(model.state_dict())
    model[0].weight.grad = torch.ones_like(model[0].weight)

    results = fgsm(model, x, y, EPSILON), pgd(model, x, y, EPSILON, steps=2, step_size=0.01)

    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.grad.eq(1).all()
    assert model[0].bias.grad is None
    assert not any(result.requires_grad for result in (*results, x))


def test_attacks__train_mode_is_the_callers_to_choose(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.train()
    fgsm(model, x, y, EPSILON)

    assert model.training
    assert model[1].num_batches_tracked == 1


def test_attacks__a_sample_does_not_depend_on_its_batch(model: nn.Module, x: Tensor, y: Tensor) -> None:
    together = pgd(model, x, y, EPSILON, steps=3, step_size=2 / 255)

    alone = torch.cat(
        [pgd(model, x[i : i + 1], y[i : i + 1], EPSILON, steps=3, step_size=2 / 255) for i in range(len(x))]
    )
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_attacks__large_batches_do_not_lose_small_float16_gradients() -> None:
    # The gradient is 2⁻²⁰; divided by the batch size it would be below 2⁻²⁴, float16's smallest number.
    model = linear_model(torch.full((2,), 2.0**-20)).half()
    x = torch.full((64, 1, 1, 2), 0.5, dtype=torch.float16)

    x_adv = fgsm(model, x, torch.zeros(64, dtype=torch.int64), 0.25)

    assert x_adv.eq(0.25).all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_attacks__work_where_gradients_are_off(model: nn.Module, x: Tensor, y: Tensor, context) -> None:
    expected = fgsm(model, x, predicted_labels(model, x), EPSILON)

    with context():
        images = x.clone()
        actual = fgsm(model, images, predicted_labels(model, images), EPSILON, torch.zeros_like(images))

    assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_attacks__keep_the_dtype(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> None:
    x = x.to(dtype)
    results = (
        fgsm(model.to(dtype), x, y, EPSILON, random_start(x, EPSILON, torch.rand(x.shape))),
        pgd(model.to(dtype), x, y, EPSILON, steps=2, step_size=0.01),
    )

    for x_adv in results:
        assert x_adv.dtype == dtype
        assert (x_adv - x).abs().max() <= torch.tensor(EPSILON, dtype=dtype)


def test_attacks__impossible_arguments(model: nn.Module, x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"epsilon is -0\.1"):
        fgsm(model, x, y, -0.1)
    with pytest.raises(ValueError, match="steps is 0"):
        pgd(model, x, y, EPSILON, steps=0, step_size=0.1)


def test_random_start__spreads_counter_based_uniforms(x: Tensor) -> None:
    uniforms = uniform(0, 1, Stream.ATTACK, np.arange(6), count=3 * 6 * 6)

    offset = random_start(x, EPSILON, torch.from_numpy(uniforms))

    assert (offset.shape, offset.dtype) == (x.shape, x.dtype)
    np.testing.assert_allclose(offset.reshape(6, -1), EPSILON * (2 * uniforms - 1), atol=1e-8)


def test_predicted_labels__argmax() -> None:
    model = linear_model(torch.tensor([1.0, -1.0]))
    x = torch.tensor([[[[0.9, 0.1]]], [[[0.1, 0.9]]]])

    assert predicted_labels(model, x).tolist() == [0, 1]
