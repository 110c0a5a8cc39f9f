"""Loops by turns, on a clock that the loops move."""

from __future__ import annotations

from dm2at_ray.bench.turns import WARM_STEPS, rates_in_turns


def test_rates_in_turns__each_waits_for_its_own_work_only() -> None:
    """A device that works on: a step takes its seconds when it is waited for."""
    now, queued = 0.0, 0.0
    order: list[str] = []

    def loop(name: str, seconds: float, samples: int) -> int:
        nonlocal now, queued
        order.append(name)
        now += 0.5
        queued += seconds - 0.5
        return samples

    def synchronize() -> None:
        nonlocal now, queued
        now, queued = now + queued, 0.0

    rates = rates_in_turns(
        {"slow": lambda: loop("slow", 2.0, 10), "fast": lambda: loop("fast", 1.0, 10)},
        turns=3,
        seconds=2.0,
        synchronize=synchronize,
        clock=lambda: now,
    )
    assert rates == {"slow": [5.0] * 3, "fast": [10.0] * 3}
    warm = WARM_STEPS + 4
    assert order[: 2 * warm] == ["slow"] * warm + ["fast"] * warm
    assert order[2 * warm :] == (["slow"] * 4 + ["fast"] * 4) * 3


def test_rates_in_turns__one_step_longer_than_the_turn_counts() -> None:
    now = 0.0

    def loop() -> int:
        nonlocal now
        now += 8.0
        return 4

    rates = rates_in_turns({"a": loop}, turns=1, seconds=0.1, synchronize=lambda: None, clock=lambda: now)
    assert rates == {"a": [0.5]}
