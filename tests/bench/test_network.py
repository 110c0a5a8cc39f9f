"""The network whose features the default pool has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dm2at_ray.bench.images import load_images
from dm2at_ray.bench.network import trained_network, wide_cnn
from dm2at_ray.training import TrainSettings


def test_wide_cnn__features_are_pooled_and_not_negative() -> None:
    network = wide_cnn(features=37, classes=5).eval()
    images = torch.rand(3, 1, 28, 28)
    features = network.features(images)
    assert features.shape == (3, 37)
    assert (features >= 0).all()
    assert network(images).shape == (3, 5)


def test_trained_network__learns_the_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    images = load_images()
    settings = TrainSettings(epochs=2, min_steps=0, batch_size=256, clean_weight=1.0)
    network = trained_network(images, 16, 0, torch.device("cpu"), settings)
    pixels = torch.nn.functional.interpolate(images.pixels[:, None] / 255, size=16, mode="bilinear")
    right = network(pixels).argmax(dim=1) == torch.from_numpy(images.labels)
    assert not network.training
    assert right.float().mean() > 0.3
