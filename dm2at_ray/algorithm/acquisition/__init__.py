"""Acquisition strategies by name. A new one is a file here and a line in ``STRATEGIES``."""

from __future__ import annotations

from collections.abc import Callable

from dm2at_ray.algorithm.acquisition.base import Candidates, Space, Strategy, StrategySettings
from dm2at_ray.algorithm.acquisition.dm2_at import DM2AT
from dm2at_ray.algorithm.acquisition.random import Random
from dm2at_ray.algorithm.acquisition.selection import Top, merge_tops, top_queries
from dm2at_ray.algorithm.acquisition.uncertainty import Uncertainty

__all__ = [
    "STRATEGIES",
    "Candidates",
    "Strategy",
    "StrategySettings",
    "Top",
    "make_strategy",
    "merge_tops",
    "top_queries",
]

STRATEGIES: dict[str, Callable[[StrategySettings], Strategy]] = {
    "dm2_at": lambda s: DM2AT(s.measure, s.aggregate, s.alpha, s.space),
    "random": lambda _: Random(),
    "entropy": lambda _: Uncertainty("entropy"),
    "least_confidence": lambda _: Uncertainty("least_confidence"),
    "margin": lambda _: Uncertainty("margin"),
}


def make_strategy(name: str, *, measure: str, aggregate: str, alpha: float, space: Space) -> Strategy:
    """Build the strategy of this name.

    Args:
        name: a key of ``STRATEGIES``.
        measure: of uncertainty on the mixtures (``dm2_at``).
        aggregate: over the mixtures (``dm2_at``).
        alpha: of MixUp's Beta(α, α) (``dm2_at``).
        space: ``input`` or ``feature``: where MixUp happens (``dm2_at``).

    Returns:
        The strategy; settings that do not concern it are ignored.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> make_strategy("random", measure="entropy", aggregate="mean", alpha=1.0, space="feature").name
        'random'
    """
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy {name!r}: choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name](StrategySettings(measure, aggregate, alpha, space))
