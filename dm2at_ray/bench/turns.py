"""Loops timed in turns, so that whatever else the machine does hurts all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

WARM_STEPS = 3
"""Before a first turn, which does not count either: torch.compile and the choice of algorithms take these."""

Loop = Callable[[], int]
"""Takes one step; returns the samples that were trained on."""


def rates_in_turns(
    loops: Mapping[str, Loop],
    *,
    turns: int,
    seconds: float,
    synchronize: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, list[float]]:
    """Let each loop work for some seconds, one after the other, and begin again.

    Before that, each warms up: some steps and a turn that do not count.

    Args:
        loops: by name.
        turns: of every loop.
        seconds: of a turn; the step under way at its end is finished, and counts.
        synchronize: waits until the device has done what it was given.
        clock: seconds.
        progress: told in a line what begins.

    Returns:
        (turns,) samples per second of each loop.

    Examples:
        >>> ticks = iter(range(100))
        >>> one_second = {"clock": lambda: next(ticks), "synchronize": lambda: None}
        >>> rates_in_turns({"a": lambda: 8}, turns=2, seconds=1, **one_second)
        {'a': [4.0, 4.0]}
    """
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for name, loop in loops.items():
        progress(f"warming up: {name}")
        for _ in range(WARM_STEPS):
            loop()
        _rate(loop, seconds, synchronize, clock)
    for turn in range(turns):
        progress(f"turn {turn + 1} of {turns}")
        for name, loop in loops.items():
            rates[name].append(_rate(loop, seconds, synchronize, clock))
    return rates


def _rate(loop: Loop, seconds: float, synchronize: Callable[[], object], clock: Callable[[], float]) -> float:
    synchronize()
    samples = 0
    began = clock()
    while samples == 0 or clock() - began < seconds:
        samples += loop()
    synchronize()
    return samples / (clock() - began)
