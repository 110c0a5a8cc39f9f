"""What a person reads while a run goes on."""

import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from dm2at_ray.monitoring.progress import LineProgress, TerminalProgress, make_progress
from dm2at_ray.monitoring.snapshot import Snapshot, StageLine

EMBED = StageLine(1, round=2, stage="embed", seconds=3.1, images=1237)
NEIGHBORS = StageLine(2, round=2, stage="neighbors", seconds=125.2, images=1237, note="recall 0.999")
LABEL = StageLine(3, round=2, stage="label", seconds=0.01, images=1)
TRAIN = StageLine(4, round=2, stage="train", seconds=24.0, images=0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_progress__one_plain_line_a_stage() -> None:
    stream = io.StringIO()
    with make_progress(stream) as progress:
        progress.update(Snapshot(2, 4, stage="neighbors", done=400, total=1237, finished=(EMBED,)))
        progress.update(Snapshot(2, 4, stage="train", finished=(EMBED, NEIGHBORS, LABEL)))
        progress.update(Snapshot(2, 4, finished=(EMBED, NEIGHBORS, LABEL, TRAIN)))
        progress.message("done")
    assert stream.getvalue() == (
        "round 2/4  embed      1,237 images in 3.1 s (399/s)\n"
        "round 2/4  neighbors  1,237 images in 2 min 05 s (9.9/s)  recall 0.999\n"
        "round 2/4  label      1 image in 0.0 s\n"
        "round 2/4  train      24.0 s\n"
        "done\n"
    )


def test_line_progress__is_written_out_at_once() -> None:
    class CountsFlushes(io.StringIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    stream = CountsFlushes()
    LineProgress(stream).update(Snapshot(2, 4, finished=(EMBED, NEIGHBORS)))
    assert stream.flushes == 2


def test_line_progress__rounds_without_a_planned_end_and_beyond_nine() -> None:
    stream = io.StringIO()
    LineProgress(stream).update(Snapshot(2, None, finished=(TRAIN,)))
    LineProgress(stream).update(Snapshot(2, 12, finished=(TRAIN,)))
    assert stream.getvalue() == "round 2  train      24.0 s\nround  2/12  train      24.0 s\n"


def test_line_progress__a_restarted_driver_counts_its_lines_from_one_again() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    progress.update(Snapshot(2, 4, finished=(EMBED, NEIGHBORS, LABEL), driver="first"))
    progress.update(Snapshot(2, 4, finished=(StageLine(1, 2, "train", 24.0, 0),), driver="second"))
    assert stream.getvalue().splitlines()[-1] == "round 2/4  train      24.0 s"


def test_terminal_progress__a_bar_with_round_stage_and_amount_then_a_line() -> None:
    stream = Terminal()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    with TerminalProgress(console) as progress:
        progress.update(Snapshot(2, 4, stage="embed", done=400, total=1237))
        progress._progress.refresh()
        moving = stream.getvalue()
        progress.update(Snapshot(2, 4, finished=(EMBED,)))
    assert re.search(r"round 2/4 embed     ━+.* 400/1,237 images", moving)
    assert stream.getvalue().count("1,237 images in 3.1 s (399/s)") == 1
    assert all(len(line) <= 80 for line in re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "\n", moving).splitlines())


def test_terminal_progress__square_brackets_in_a_note_are_text() -> None:
    stream = Terminal()
    with TerminalProgress(Console(file=stream, force_terminal=True, width=80, color_system=None)) as progress:
        progress.message("classes [red] and [blue]")
    assert "classes [red] and [blue]" in stream.getvalue()


def test_make_progress__suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = make_progress(Terminal())
    terminal.close()
    assert isinstance(terminal, TerminalProgress)
    assert isinstance(make_progress(io.StringIO()), LineProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(Terminal()), LineProgress)


def test_snapshot__is_nothing_but_plain_values() -> None:
    snapshot = Snapshot(2, 4, stage="embed", done=3, total=9, finished=(EMBED, NEIGHBORS), driver="a")
    read = json.loads(json.dumps(dataclasses.asdict(snapshot)))
    read["finished"] = tuple(StageLine(**line) for line in read["finished"])
    read["notices"] = tuple(read["notices"])
    assert Snapshot(**read) == snapshot


def test_line_progress__says_each_notice_once() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    for notices in ((), ("metrics: here",), ("metrics: here", "and there")):
        progress.update(Snapshot(0, 4, driver="a", notices=notices))
    assert stream.getvalue() == "metrics: here\nand there\n"
