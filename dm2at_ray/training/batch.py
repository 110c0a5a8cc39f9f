"""One worker's share of a step: from uint8 on the host to what the step needs on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2at_ray.algorithm.counter_rng import Stream
from dm2at_ray.training.augment import DRAWS, augment
from dm2at_ray.training.draws import epoch_uniforms, pixel_keys
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.settings import TrainSettings

_MIN_SAMPLES = 2


@dataclass(frozen=True)
class Batch:
    """N samples, and which of their images are trained on."""

    images: Tensor
    """(N, C, H, W) float32 in [0, 1], augmented."""

    labels: Tensor
    """(N,) int64."""

    weights: Tensor
    """(N,) float32: 1, or 0 for a sample that only fills up the share."""

    samples: int
    """Samples of weight 1."""

    clean_rows: Tensor
    """(R,) int64: samples whose clean image is trained on."""

    twins: Tensor
    """(T, C, H, W) float32: stored adversaries, moved as their clean image was."""

    twin_rows: Tensor
    """(T,) int64: the samples that they are twins of."""

    start_keys: Tensor
    """(N,) int64: keys of the random starts of fresh adversaries; (0,) where nothing starts at random."""

    fresh: bool
    """Whether fresh adversaries are to be made."""

    @property
    def is_full(self) -> bool:
        """Whether every sample counts."""
        return self.samples == len(self.labels)


def load_batch(
    placed: PlacedSet,
    share: NDArray[np.int64],
    filler: int,
    settings: TrainSettings,
    *,
    seed: int,
    round_index: int,
    epoch: int,
) -> Batch:
    """Bring a share of a global batch onto the device.

    A share of fewer than two samples is filled up with `filler` at weight 0: the worker still takes part in
    every collective operation, and batch norm gets the two values that it needs.

    Args:
        placed: The labeled set, and where the batch goes.
        share: (n,) rows of it; may be empty.
        filler: A row of it.
        settings: What is trained on.
        seed: Seed of the run.
        round_index: Round of the run.
        epoch: Epoch, from 0.
    """
    labeled, to_device = placed.labeled, placed.to_device
    missing = max(0, _MIN_SAMPLES - len(share))
    rows = np.concatenate([share, np.full(missing, filler, np.int64)])
    sample_ids = labeled.sample_ids[rows]
    adversarial = settings.clean_weight < 1
    fresh = adversarial and settings.adversaries != "stored"
    with_twins = adversarial and settings.adversaries != "fresh"
    has_twin = labeled.twin_mask()[rows] & with_twins
    # Without a say in the loss, a clean image would still move the statistics of batch norm.
    clean_counts = np.full(len(rows), settings.clean_weight > 0) | ~(has_twin | fresh)
    twin_rows = np.flatnonzero(has_twin)
    weights = torch.ones(len(rows), device=placed.device)
    weights[len(share) :] = 0
    start_keys = np.empty(0, np.int64)
    if fresh and (settings.attack != "fgsm" or settings.grad_align > 0):
        start_keys = pixel_keys(seed, round_index, epoch, sample_ids)
    images, twins = placed.images(rows), placed.twins(rows[twin_rows])
    if settings.augment != "none":
        uniforms = epoch_uniforms(seed, round_index, epoch, Stream.AUGMENT, sample_ids, DRAWS)
        images = augment(images, to_device(uniforms), settings.augment)
        twins = augment(twins, to_device(uniforms[twin_rows]), settings.augment)
    return Batch(
        images=images,
        labels=to_device(labeled.labels[rows].astype(np.int64)),
        weights=weights,
        samples=len(share),
        clean_rows=to_device(np.flatnonzero(clean_counts)),
        twins=twins,
        twin_rows=to_device(twin_rows),
        start_keys=to_device(start_keys),
        fresh=fresh,
    )
