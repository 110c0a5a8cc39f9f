"""Importers in processes of their own: at once, and killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dm2at_ray.labeling import LabelBook, import_labels
from dm2at_ray.labeling.overview import labels_history

from .asked_run import AskedRun, make_asked_run
from .test_importing import csv_file

IMPORTER = """
import os, sys, time
from dm2at_ray.labeling import importing
from dm2at_ray.store import RunDirectory
run_dir, stop = sys.argv[1], sys.argv[2]
def pause(*_):
    print("now", flush=True)
    time.sleep(600)
if stop == "before the rename":
    from pathlib import Path
    Path.replace = pause
if stop == "before the mark":
    importing.LabelBook.accept_partial = pause
print("ready", flush=True)
sys.stdin.readline()
for file in sys.argv[3:]:
    report = importing.import_labels(RunDirectory(run_dir), [file], accept_partial=stop == "before the mark")
    assert not report.refused, report.refused
"""


def importer(run_dir: str, stop: str, *files: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTER, run_dir, stop, *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_importers__two_people_at_the_same_time(tmp_path: Path) -> None:
    asked = list(range(100, 180))
    run = make_asked_run(str(tmp_path / "digits"), asked)
    files: dict[str, list[str]] = {}
    for person, own in (("ann", asked[:40]), ("bob", asked[40:])):
        # A file after the other, with the samples of those before it; the first sample is everybody's.
        files[person] = [
            csv_file(
                tmp_path / f"{person}{turn}.csv",
                (100, run.names[100]),
                *((s, run.names[s]) for s in own[:turn]),
            )
            for turn in range(1, 41, 8)
        ] + [csv_file(tmp_path / f"{person}.csv", *((s, run.names[s]) for s in own))]
    begun = [importer(run.directory.uri, "never", *each) for each in files.values()]
    for process in begun:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in begun:
        process.communicate(timeout=120)
        assert process.returncode == 0
    book = LabelBook(run.directory)
    effective = book.effective(asked)
    assert dict(zip(effective["sample_id"].to_pylist(), effective["label"].to_pylist(), strict=True)) == {
        sample: run.names[sample] for sample in asked
    }
    own_words = [r for r in book.records().to_pylist() if r["round"] == 1 and r["sample_id"] != 100]
    assert len(own_words) == len(asked) - 1, "nothing doubled"
    assert {r["source"] for r in own_words} > {"ann9.csv", "bob.csv"}
    assert not any(row["was"] for row in labels_history(run.directory))


@pytest.mark.parametrize("stop", ["before the rename", "before the mark"])
def test_importers__one_that_is_killed_has_written_all_or_nothing(
    asked_run: AskedRun, tmp_path: Path, stop: str
) -> None:
    run = asked_run.directory
    file = csv_file(tmp_path / "ann.csv", *asked_run.truth.items())
    before = LabelBook(run).records().num_rows
    process = importer(run.uri, stop, file)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    left = LabelBook(run).records().num_rows - before
    assert left == (0 if stop == "before the rename" else 6)
    assert not LabelBook(run).is_accepted(1)
    report = import_labels(run, [file], accept_partial=True)
    assert (report.answered, report.accepted) == (6, 1)
    assert LabelBook(run).records().num_rows == before + 6, "nothing lost, nothing doubled"
