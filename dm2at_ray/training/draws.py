"""Random numbers of a training: each a function of (seed, round, epoch, sample id) alone.

A resumed training draws what the uncut one would have, and a worker draws for a sample what any other would.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2at_ray.algorithm.counter_rng import Stream, uniform

_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def epoch_seed(seed: int, epoch: int) -> int:
    """A 63-bit seed for one epoch of a run."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_uniforms(
    seed: int, round_index: int, epoch: int, stream: Stream, sample_ids: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """`count` uniforms for each sample of an epoch: (N, count) float64 in (0, 1)."""
    return uniform(epoch_seed(seed, epoch), round_index, stream, sample_ids, count)


def pixel_keys(seed: int, round_index: int, epoch: int, sample_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """A 64-bit key for each sample's random start of an epoch: (N,) int64."""
    halves = epoch_uniforms(seed, round_index, epoch, Stream.ATTACK, sample_ids, 2) * 2.0**32
    high, low = halves.astype(np.uint64).T
    return ((high << np.uint64(32)) | low).view(np.int64)


def pixel_uniforms(keys: Tensor, count: int) -> Tensor:
    """`count` uniforms from each key, by SplitMix64 on the keys' device (Steele et al., OOPSLA 2014).

    One draw per pixel and step is too many for the host to make and send beside a GPU that trains. The
    arithmetic is that of integers, so CPU and GPU agree.

    Args:
        keys: (N,) int64.
        count: Uniforms for each key.

    Returns:
        (N, count) float32 in (0, 1).
    """
    z = keys[:, None] + _GAMMA * torch.arange(1, count + 1, device=keys.device)
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    return (
        _shift_right(z, 41).float() + 0.5
    ) * 2.0**-23  # 23 bits and a half: exact in float32, never 0 or 1


def _shift_right(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
