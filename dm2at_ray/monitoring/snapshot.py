"""Where a run is at one moment, as its driver tells it and as a line says it."""

from __future__ import annotations

from dataclasses import dataclass

from dm2at_ray.monitoring.quantities import duration, rate


@dataclass(frozen=True)
class StageLine:
    """A finished stage; `sequence` numbers the lines of one driver from 1, so that none is shown twice."""

    sequence: int
    round: int | None
    stage: str
    seconds: float
    images: int
    note: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Where a run is at one moment, as its driver tells it: plain values that travel between processes.

    Attributes:
        round: Round in progress; None for work outside all rounds.
        rounds: Last round planned; None if another rule ends the run.
        stage: Stage in progress; empty between stages.
        done: Units of the stage done.
        total: Units of the stage in all; None if not known.
        unit: What `done` and `total` count.
        started: When the stage started, in seconds since the epoch.
        seconds: Seconds since the stage started.
        finished: Finished stages, at least all those since the last snapshot.
        driver: Changes whenever the driver is started anew, because its lines then count from 1 again.
        notices: Lines of their own that the driver has to say, such as where it serves its metrics.
    """

    round: int | None
    rounds: int | None
    stage: str = ""
    done: int = 0
    total: int | None = None
    unit: str = "images"
    started: float = 0.0
    seconds: float = 0.0
    finished: tuple[StageLine, ...] = ()
    driver: str = ""
    notices: tuple[str, ...] = ()


def round_heading(round_index: int | None, rounds: int | None) -> str:
    """The words "round 2/4", or "round 2" where the number of rounds is open; numbers keep their width.

    Nothing outside all rounds.
    """
    if round_index is None:
        return ""
    if rounds is None:
        return f"round {round_index}"
    return f"round {round_index:>{len(str(rounds))}}/{rounds}"


def stage_text(line: StageLine, rounds: int | None) -> str:
    """One finished stage in one line.

    Examples:
        >>> print(stage_text(StageLine(1, round=2, stage="embed", seconds=3.1, images=1237), rounds=4))
        round 2/4  embed      1,237 images in 3.1 s (399/s)
    """
    images = "image" if line.images == 1 else "images"
    work = f"{line.images:,} {images} in {duration(line.seconds)}" if line.images else duration(line.seconds)
    speed = rate(line.images, line.seconds)
    return (
        f"{round_heading(line.round, rounds)}  {line.stage:<9}  {work}".lstrip()
        + (f" ({speed})" if speed else "")
        + (f"  {line.note}" if line.note else "")
    )
