"""Learning rate as a function of the step, so that resuming needs no state but the step."""

from __future__ import annotations

import math

from dm2at_ray.training.settings import Schedule

WARMUP_SHARE = 0.3
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def learning_rate(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    """Learning rate of step `step` (from 0) of `total_steps`.

    `one_cycle` rises from peak / 25 over the first 30 % of the steps and falls to peak / 250,000, both along
    a half cosine (Smith and Topin, arXiv 1708.07120; the shape of `torch.optim.lr_scheduler.OneCycleLR`);
    `cosine` falls from the peak towards 0 (Loshchilov and Hutter, arXiv 1608.03983).

    Examples:
        >>> [learning_rate("cosine", 1.0, step, 2) for step in (0, 1)]
        [1.0, 0.5]
    """
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        return _half_cosine(peak, 0.0, step / total_steps)
    summit = WARMUP_SHARE * total_steps - 1
    last = total_steps - 1
    low = peak / START_DIVISOR
    if step <= summit:
        return _half_cosine(low, peak, step / summit if summit > 0 else 1.0)
    return _half_cosine(peak, low / END_DIVISOR, (step - summit) / (last - summit))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
