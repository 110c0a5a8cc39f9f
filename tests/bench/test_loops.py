"""The loops that are timed take the steps that they are named for."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dm2at_ray.bench.loops import OurLoop, PlainLoop, clean_step, textbook_fgsm_step
from dm2at_ray.bench.train_settings import TrainBenchSettings
from dm2at_ray.models import Classifier, ModelSpec
from dm2at_ray.training import LabeledSet, TrainSettings, train

CPU = torch.device("cpu")


def logistic_gradients(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the cross-entropy of softmax(w x), by hand: (C, D) the mean to w, (N, D) the sum to x."""
    logits = x @ w.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = p - np.eye(len(w))[y]  # (N, C)
    return error.T @ x / len(x), error @ w


@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 1.0])
def test_textbook_fgsm_step__follows_the_gradient_by_hand(clean_weight: float) -> None:
    numbers = np.random.default_rng(0)
    w, x, y = numbers.normal(size=(3, 4)), numbers.random((5, 4)), np.array([0, 1, 2, 1, 0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    model[1].weight.data = torch.from_numpy(w.copy())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    epsilon = 0.2
    images = torch.from_numpy(x).view(5, 1, 2, 2)
    textbook_fgsm_step(
        model, optimizer, images, torch.from_numpy(y), epsilon=epsilon, clean_weight=clean_weight
    )
    to_w, to_x = logistic_gradients(w, x, y)
    adversarial_to_w, _ = logistic_gradients(w, np.clip(x + epsilon * np.sign(to_x), 0, 1), y)
    after = w - 0.5 * (clean_weight * to_w + (1 - clean_weight) * adversarial_to_w)
    assert torch.from_numpy(x).equal(images.view(5, 4))
    np.testing.assert_allclose(model[1].weight.detach().numpy(), after, atol=1e-12)


def test_clean_step__follows_the_gradient_by_hand() -> None:
    numbers = np.random.default_rng(1)
    w, x, y = numbers.normal(size=(3, 4)), numbers.random((5, 4)), np.array([0, 1, 2, 1, 0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    model[1].weight.data = torch.from_numpy(w.copy())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    clean_step(model, optimizer, torch.from_numpy(x).view(5, 1, 2, 2), torch.from_numpy(y), bf16=False)
    np.testing.assert_allclose(
        model[1].weight.detach().numpy(), w - 0.5 * logistic_gradients(w, x, y)[0], atol=1e-12
    )


def test_textbook_fgsm_step__passes_six_times_through_the_model() -> None:
    model = small_model()
    passes = {"forward": 0, "backward": 0}

    def count(name: str) -> None:
        passes[name] += 1

    model.head.register_forward_hook(lambda *_: count("forward"))
    model.head.register_full_backward_hook(lambda *_: count("backward"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    textbook_fgsm_step(
        model, optimizer, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]), epsilon=0.1, clean_weight=0.5
    )
    assert passes == {"forward": 3, "backward": 3}


def test_plain_loop__an_epoch_sees_each_sample_once() -> None:
    seen: list[Tensor] = []

    def step(images: Tensor, labels: Tensor) -> Tensor:
        assert images[:, 0, 0, 0].equal(labels.float())
        seen.append(labels)
        return labels.float().mean()

    loop = PlainLoop(step, torch.arange(12.0).view(12, 1, 1, 1), torch.arange(12), batch_size=4)
    assert [loop() for _ in range(6)] == [4] * 6
    assert loop.last_loss() == seen[-1].float().mean()
    for epoch in (seen[:3], seen[3:]):
        assert torch.cat(epoch).sort().values.equal(torch.arange(12))


def test_our_loop__trains_as_train_does() -> None:
    settings = TrainSettings(
        epochs=2, min_steps=0, batch_size=8, schedule="constant", learning_rate=0.05, validation=0
    )
    timed, trained = small_model(), small_model()
    loop = OurLoop(timed, labeled(16), settings, seed=3, device=CPU)
    assert [loop() for _ in range(4)] == [8] * 4
    train(trained, labeled(16), settings, seed=3, round_index=0)
    for name, weight in trained.named_parameters():
        assert weight.equal(timed.get_parameter(name)), name


def test_our_loop__lays_the_model_out_as_train_does() -> None:
    models = [ModelSpec("resnet18", num_classes=4, channels=1, image_size=8).build(seed=0) for _ in range(2)]
    settings = TrainSettings(steps=1, batch_size=8, clean_weight=1.0)
    OurLoop(models[0], labeled(8), settings, seed=3, device=CPU)
    train(models[1], labeled(8), settings, seed=3, round_index=0)
    strides = [[weight.stride() for weight in model.parameters()] for model in models]
    assert strides[0] == strides[1]
    assert any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in models[0].parameters()
        if weight.dim() == 4
    )


def test_our_loop__takes_the_textbooks_step() -> None:
    """One batch is the whole set: whatever the order, the loss is the same."""
    settings = TrainBenchSettings(batch_size=16).training()
    ours, textbook = small_model(), small_model()
    samples = labeled(16)
    loop = OurLoop(ours, samples, settings, seed=0, device=CPU)
    assert loop() == 16
    optimizer = torch.optim.SGD(
        textbook.parameters(), lr=settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    step = partial(textbook_fgsm_step, epsilon=settings.epsilon, clean_weight=settings.clean_weight)
    images = torch.from_numpy(samples.images).permute(0, 3, 1, 2) / 255
    loss = step(textbook, optimizer, images, torch.from_numpy(samples.labels))
    assert loop.last_loss() == pytest.approx(loss.item(), abs=1e-5)
    for name, weight in textbook.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, atol=1e-6, rtol=1e-4)


def small_model() -> Classifier:
    """The same weights each time."""
    return ModelSpec("small_cnn", num_classes=4, channels=1, image_size=8).build(seed=0)


def labeled(count: int) -> LabeledSet:
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return LabeledSet(np.arange(count), images, numbers.integers(0, 4, count))
