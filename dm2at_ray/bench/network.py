"""A small trained network with as many features as a benchmark asks for."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.bench.collages import canvas_size, views
from dm2at_ray.bench.images import LabeledImages
from dm2at_ray.models import Classifier, Normalize
from dm2at_ray.training import LabeledSet, TrainSettings, train

WIDTHS = (16, 32, 64)
LABELED = 4096
SETTINGS = TrainSettings(epochs=1, min_steps=256, batch_size=128, clean_weight=1.0)
"""Ten to twenty seconds on two CPU cores. With fewer steps the neighbours of collages are easier to find."""


def wide_cnn(features: int, classes: int) -> Classifier:
    """Build a convolutional net for gray images: convolutions, batch norm, ReLU, global average pooling.

    The last convolution is 1x1, so that even a wide one costs less than those before it.

    Args:
        features: the classifier's feature_dim D.
        classes: logits.
    """
    body = nn.Sequential(
        *_block(1, WIDTHS[0], kernel_size=3, stride=1),
        *_block(WIDTHS[0], WIDTHS[1], kernel_size=3, stride=2),
        *_block(WIDTHS[1], WIDTHS[2], kernel_size=3, stride=2),
        *_block(WIDTHS[2], features, kernel_size=1, stride=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    classifier = Classifier(Normalize(1, [0.3], [0.3]), body, nn.Linear(features, classes))
    return classifier.to(memory_format=torch.channels_last)


def trained_network(
    images: LabeledImages,
    features: int,
    seed: int,
    device: torch.device,
    settings: TrainSettings = SETTINGS,
) -> Classifier:
    """Train `wide_cnn` for a few seconds to tell the classes of random views of labeled images.

    Args:
        images: what to learn from; 4,096 of them are taken, some twice where there are fewer.
        features: the classifier's feature_dim D.
        seed: of the weights, the views and the training.
        device: where to train.
        settings: how to train.

    Returns:
        The classifier in eval mode, on `device`.
    """
    ids = np.arange(LABELED, dtype=np.int64)
    drawn = torch.from_numpy(uniform(seed, 0, Stream.INITIAL, ids, 8)).to(torch.float32)  # (4096, 8)
    sources = (drawn[:, 0] * len(images.pixels)).to(torch.int64).clamp_(max=len(images.pixels) - 1)
    seen = views(images.pixels, sources, drawn[:, 1:], canvas_size(images.pixels.shape[1]))
    pixels = (seen[..., None] * 255).round().to(torch.uint8).numpy()  # (4096, T, T, 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = wide_cnn(features, images.classes)
    labeled = LabeledSet(ids, pixels, images.labels[sources.numpy()])
    train(network, labeled, settings, seed=seed, round_index=0, device=device)
    return network


def _block(before: int, after: int, kernel_size: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
