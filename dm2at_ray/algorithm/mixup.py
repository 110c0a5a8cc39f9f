"""MixUp of a sample with its neighbours: Step 3 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor

from dm2at_ray.algorithm.counter_rng import Stream, uniform


def mixing_coefficients(
    seed: int, round_index: int, sample_ids: npt.NDArray[np.int64], k: int, alpha: float
) -> Tensor:
    """Draw μ ~ Beta(α, α) for each sample and neighbour rank (MixUp: Zhang et al., arXiv 1710.09412).

    α sets how far mixtures stand from their two ends. α near 0: almost every μ is nearly 0 or nearly 1, a
    mixture is one of the two images. α = 1: uniform. Large α: every μ is near 1/2. The mean is always 1/2.

    A coefficient is the inverse distribution function of one counter-based uniform, so it depends on its own
    (seed, round, sample id, rank) only, not on ``k`` or on the batch.

    Args:
        seed: of the run.
        round_index: of the active-learning round.
        sample_ids: (N,) int64.
        k: neighbours per sample, 0 or more.
        alpha: α > 0.

    Returns:
        (N, k) float32 on the CPU, in [0, 1].

    Raises:
        ValueError: if ``alpha`` is not a positive finite number.

    Examples:
        >>> mixing_coefficients(0, 1, np.array([5, 6, 7]), k=2, alpha=1.0).shape
        torch.Size([3, 2])
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha is {alpha}: Beta(alpha, alpha) needs a positive finite number")
    quantile = uniform(seed, round_index, Stream.MIXUP, sample_ids, k)
    mu = betaincinv(alpha, alpha, quantile)
    return torch.from_numpy(mu.astype(np.float32))


def mixup(x: Tensor, neighbors: Tensor, mu: Tensor) -> Tensor:
    """Mix each sample with each of its neighbours: x̃ = μ x + (1 − μ) x'.

    Args:
        x: (N, ...) images or features.
        neighbors: (N, k, ...), for each sample its k neighbours.
        mu: (N, k) in [0, 1], the share of ``x`` itself.

    Returns:
        (N, k, ...) in the widest of the three dtypes: float16 features and a float32 ``mu`` give float32.

    Examples:
        >>> x, neighbors = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0], [5.0, 4.0]]])
        >>> mixup(x, neighbors, torch.tensor([[0.75, 0.5]]))
        tensor([[[0.7500, 0.2500],
                 [3.0000, 2.0000]]])
    """
    mu = mu.reshape(mu.shape + (1,) * (x.dim() - 1))  # (N, k, 1, ...)
    return mu * x.unsqueeze(1) + (1 - mu) * neighbors
