"""How a person at a terminal sees a run: where it is now, and one line for every stage it has finished."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from dm2at_ray.monitoring.quantities import rate
from dm2at_ray.monitoring.snapshot import Snapshot, round_heading, stage_text


class ProgressView(Protocol):
    """Shows snapshots of one run as they come."""

    def update(self, snapshot: Snapshot) -> None:
        """Show a snapshot; lines shown before are not shown again."""

    def message(self, text: str) -> None:
        """Print a line of its own, above whatever moves."""

    def close(self) -> None:
        """Take away whatever moves; what was printed stays."""

    def __enter__(self) -> ProgressView: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Lines:
    """Picks from each snapshot the notices and the finished stages that have not been shown."""

    def __init__(self) -> None:
        self._driver: str | None = None
        self._shown = 0
        self._noticed = 0

    def new(self, snapshot: Snapshot) -> list[str]:
        if snapshot.driver != self._driver:
            self._driver, self._shown, self._noticed = snapshot.driver, 0, 0
        notices = snapshot.notices[self._noticed :]
        self._noticed = len(snapshot.notices)
        fresh = sorted(
            (line for line in snapshot.finished if line.sequence > self._shown),
            key=lambda line: line.sequence,
        )
        if fresh:
            self._shown = fresh[-1].sequence
        return [*notices, *(stage_text(line, snapshot.rounds) for line in fresh)]


class LineProgress:
    """Without a terminal: one plain line a finished stage, written out at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines = _Lines()

    def update(self, snapshot: Snapshot) -> None:
        """Print the stages finished since the last snapshot."""
        for line in self._lines.new(snapshot):
            self.message(line)

    def message(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing moves, so nothing is taken away."""

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TerminalProgress:
    """At a terminal: the round, the stage and a bar with rate and time left; finished stages leave a line."""

    def __init__(self, console: Console) -> None:
        self._lines = _Lines()
        self._shown_stage: tuple[str, int | None, str] | None = None
        self._progress = Progress(
            TextColumn("{task.fields[heading]}", style="bold"),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            _AmountColumn(table_column=Column(no_wrap=True)),
            _TimeLeftColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False, heading="", unit="")
        self._progress.start()

    def update(self, snapshot: Snapshot) -> None:
        """Move the bar to a snapshot and print the stages finished since the last one."""
        for line in self._lines.new(snapshot):
            self.message(line)
        stage = (snapshot.driver, snapshot.round, snapshot.stage)
        if stage != self._shown_stage:
            self._progress.reset(self._task)
            self._shown_stage = stage
        self._progress.update(
            self._task,
            description=snapshot.stage,
            completed=snapshot.done,
            total=snapshot.total,
            visible=bool(snapshot.stage),
            heading=round_heading(snapshot.round, snapshot.rounds),
            unit=snapshot.unit,
        )

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AmountColumn(ProgressColumn):
    """Done of total with the unit, and the rate over the last half minute."""

    def render(self, task: Task) -> Text:
        amount = f"{task.completed:,.0f}" + (f"/{task.total:,.0f}" if task.total is not None else "")
        speed = f"  {rate(task.speed, 1.0)}" if task.speed else ""
        return Text(f"{amount} {task.fields['unit']}{speed}", justify="right")


class _TimeLeftColumn(TimeRemainingColumn):
    """Rich's own estimate, saying what it is."""

    def render(self, task: Task) -> Text:
        return super().render(task) + " left" if task.time_remaining is not None else Text()


def make_progress(stream: TextIO) -> ProgressView:
    """The view that suits a stream: `TerminalProgress` where it is a terminal that can move its cursor."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalProgress(Console(file=stream))
    return LineProgress(stream)
