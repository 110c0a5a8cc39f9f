"""Memory formats: what is faster may not change what is learned, nor keep a network from training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dm2at_ray.training import EpochReport, LabeledSet, TrainSettings, TrainState, loop, train
from dm2at_ray.training.layout import laid_out, prefer_channels_last

MakeLabeled = Callable[..., LabeledSet]
PLACE: dict[str, Any] = {"seed": 0, "round_index": 1}
# A signed step magnifies rounding: without a start far from the image fewer signs change.
SETTINGS = TrainSettings(epochs=4, min_steps=0, batch_size=10, learning_rate=0.05, ema=0.5, attack="rs_fgsm")


class Flat(nn.Module):
    """A network as most are written: it flattens with `view`, which fails on channels-last maps."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(96, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).view(len(images), -1))


class Flexible(Flat):
    """For maps of any layout; with a convolution of one pixel, which is laid out both ways."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels)
        self.body.append(nn.Conv2d(6, 6, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


def colored(labeled: LabeledSet) -> LabeledSet:
    """Three channels, each its own."""
    images = np.concatenate([labeled.images, labeled.images // 2, 255 - labeled.images], axis=3)
    return LabeledSet(labeled.sample_ids, images, labeled.labels)


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_train__channels_last_changes_no_number(
    make_labeled: MakeLabeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeled = colored(make_labeled(30))
    models = {layout: Flexible() for layout in ("channels-last", "contiguous")}
    results = {"channels-last": train(models["channels-last"], labeled, SETTINGS, **PLACE)}
    monkeypatch.setattr(loop, "prefer_channels_last", lambda model, images: None)
    results["contiguous"] = train(models["contiguous"], labeled, SETTINGS, **PLACE)
    weights = {layout: model.body[0].weight for layout, model in models.items()}
    assert [is_channels_last(weight) for weight in weights.values()] == [True, False]
    assert results["channels-last"].loss.total == pytest.approx(results["contiguous"].loss.total, rel=1e-5)
    for name, tensor in models["contiguous"].state_dict().items():
        torch.testing.assert_close(models["channels-last"].state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_train__a_resumed_training_stays_channels_last(make_labeled: MakeLabeled, tmp_path: Path) -> None:
    """Weights, momentum and the average are saved contiguous, and go on bit by bit where they were."""
    labeled = colored(make_labeled(30))

    def save(report: EpochReport, make_state: Callable[[], TrainState]) -> None:
        if report.epoch == 2:
            make_state().save(tmp_path)

    uncut, resumed = Flexible(), Flexible()
    train(uncut, labeled, SETTINGS, **PLACE, on_epoch=save)
    train(resumed, labeled, SETTINGS, **PLACE, start=TrainState.load(tmp_path))
    assert is_channels_last(resumed.body[0].weight)
    for name, tensor in uncut.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@pytest.mark.parametrize("augment", ["none", "shift"])
@pytest.mark.parametrize("channels", [1, 3])
def test_train__a_network_that_views_its_maps(augment: Any, channels: int, make_labeled: MakeLabeled) -> None:
    """Held-out images are looked at, too."""
    labeled = make_labeled(500)
    labeled = colored(labeled) if channels == 3 else labeled
    settings = TrainSettings(steps=4, augment=augment, learning_rate=0.01)
    model = Flat(channels)
    result = train(model, labeled, settings, **PLACE)
    assert result.steps == 4
    assert result.stability.looks
    assert model.body[0].weight.is_contiguous()


@pytest.mark.parametrize(("network", "expected"), [(Flexible, True), (Flat, False)])
def test_prefer_channels_last__only_where_the_network_runs(network: type[Flat], expected: bool) -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prefer_channels_last(model, torch.rand(2, 3, 4, 4))
    assert is_channels_last(model.body[0].weight) == expected
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    images = torch.rand(5, 3, 4, 4)
    assert is_channels_last(laid_out(images, model)) == expected
    assert torch.equal(laid_out(images, model), images)


def test_prefer_channels_last__without_a_convolution() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    prefer_channels_last(model, torch.rand(2, 3, 2, 2))
    images = torch.rand(5, 2, 2, 3).permute(0, 3, 1, 2)
    assert laid_out(images, model).is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_train__gradients_have_the_layout_that_workers_average_them_in(
    channels: int, make_labeled: MakeLabeled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DistributedDataParallel warns where it must copy a gradient into another layout in every step."""
    labeled = make_labeled(30) if channels == 1 else colored(make_labeled(30))
    wrapped = nn.parallel.DistributedDataParallel
    monkeypatch.setattr(loop, "_distribute", lambda bare, device, workers: wrapped(bare))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(Flexible(channels), labeled, SETTINGS, **PLACE)
    finally:
        dist.destroy_process_group()
