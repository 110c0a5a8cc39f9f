"""`dm2at queries` and `dm2at labels` as a person calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dm2at_ray.labeling import LabelBook

from .asked_run import ASKED, FIRST, AskedRun
from .test_importing import csv_file

Command = Callable[..., Any]


def test_queries_export__then_labels_import(asked_run: AskedRun, dm2at: Command) -> None:
    uri = asked_run.directory.uri
    answer = dm2at("queries", "export", uri, "--format", "label-studio", "--size", 64)
    assert answer.code == 0, answer.stderr
    folder = f"{uri}/rounds/0001/export-label-studio"
    assert answer.stdout.startswith(f"round 1: 6 queries, 10 pictures\n{folder}/tasks.json\n")
    assert f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={uri}/rounds/0001," in answer.stdout
    assert f"dm2at labels import {uri} FILE" in answer.stdout
    again = json.loads(dm2at("queries", "export", uri, "--format", "label-studio", "--json").stdout)
    assert (again["index"], again["written"], again["tasks"]) == (f"{folder}/tasks.json", False, 6)
    exported = Path(__file__).parent / "label_studio" / "export.json"
    answer = dm2at("labels", "import", uri, exported)
    assert answer.code == 0, answer.stderr
    assert answer.stdout.splitlines()[:3] == [
        "3 new",
        "2 cannot tell",
        "1 left open",
    ]
    assert "round 1: 5 of 6 answered\nmissing: 0; the round waits for them, or for --accept" in answer.stdout


def test_labels_import__of_lines_that_are_wrong(asked_run: AskedRun, dm2at: Command, tmp_path: Path) -> None:
    uri = asked_run.directory.uri
    file = csv_file(
        tmp_path / "ann.csv", (1300, "on"), (5, "two"), *[(sample, "x") for sample in range(50, 70)]
    )
    answer = dm2at("labels", "import", uri, file)
    assert answer.code == 2
    assert f"  {file}, line 2: sample 1300 'on': did you mean 'one'" in answer.stdout
    assert "  and " in answer.stdout
    assert "nothing was written: mend these lines, or --keep-good imports the others" in answer.stdout
    assert LabelBook(asked_run.directory).effective(ASKED).num_rows == 0
    answer = dm2at(
        "labels", "import", uri, csv_file(tmp_path / "b.csv", (1300, "on"), (5, "two")), "--keep-good"
    )
    assert answer.code == 0
    assert LabelBook(asked_run.directory).effective(ASKED)["sample_id"].to_pylist() == [5]


def test_labels_import__as_json_and_twice(asked_run: AskedRun, dm2at: Command, tmp_path: Path) -> None:
    uri = asked_run.directory.uri
    file = csv_file(tmp_path / "ann.csv", (1300, "one"), (FIRST[0], "nine"))
    options = ("labels", "import", uri, file, "--source", "ann", "--accept-partial")
    found = json.loads(dm2at(*options, "--json").stdout)
    assert (found["counts"]["new"], found["counts"]["correction"]) == (1, 1)
    assert (found["accepted"], found["answered"], found["missing"]) == (1, 1, ASKED[1:])
    assert [(line["by"], line["where"]) for line in found["lines"]] == [("ann", "line 2"), ("ann", "line 3")]
    again = dm2at(*options)
    assert again.code == 0
    assert "2 as before\nnothing to write: no file says anything new" in again.stdout
    assert "accepted as it is: the round goes on without the other 5" in again.stdout


def test_labels_import__of_nothing(asked_run: AskedRun, dm2at: Command, tmp_path: Path) -> None:
    answer = dm2at("labels", "import", asked_run.directory.uri)
    assert (answer.code, answer.stderr) == (2, "FILE: none given; name the files to import\n")
    answer = dm2at("labels", "import", tmp_path / "none", "x.csv")
    assert answer.code == 2
    assert "no run there" in answer.stderr


def test_labels_status_and_history(asked_run: AskedRun, dm2at: Command, tmp_path: Path) -> None:
    uri = asked_run.directory.uri
    assert dm2at("labels", "history", uri).stdout == "no corrections\n"
    assert "nobody has said anything yet" in dm2at("labels", "history", uri, "--sample", 5).stdout
    file = csv_file(tmp_path / "ann.csv", (FIRST[0], "nine"), (5, "cannot tell"))
    assert dm2at("labels", "import", uri, file).code == 0
    lines = dm2at("labels", "history", uri).stdout.splitlines()
    before = asked_run.names[FIRST[0]]
    assert lines[0] == f"2025-11-03 00:00:00 UTC  sample {FIRST[0]}: '{before}', ann"
    assert lines[1].endswith(f"sample {FIRST[0]}: 'nine' (was '{before}'), ann.csv")
    one = json.loads(dm2at("labels", "history", uri, "--sample", 5, "--json").stdout)
    assert [(row["sample_id"], row["label"], row["was"]) for row in one] == [(5, None, None)]
    status = dm2at("labels", "status", uri).stdout
    assert status.splitlines()[-3:] == ["corrections: 1", "by ann: 3", "by ann.csv: 2"]
    words = [line.split() for line in status.splitlines()]
    assert ["0", "4", "4", "0", "0", "committed"] in words
    assert ["1", "6", "0", "1", "5", "open"] in words
    assert json.loads(dm2at("labels", "status", uri, "--json").stdout)["corrections"] == 1


def test_queries_export__says_what_is_wrong_in_one_line(
    asked_run: AskedRun, dm2at: Command, tmp_path: Path
) -> None:
    uri = asked_run.directory.uri
    answer = dm2at("queries", "export", uri, "--round", 9)
    assert (answer.code, answer.stderr.count("\n")) == (2, 1)
    assert answer.stderr.startswith("--round 9: it has no queries")
    assert dm2at("queries", "export", uri, "--pictures", "link").code == 2
    answer = dm2at("queries", "export", uri, "-o", tmp_path / "out", "--pictures", "none", "--no-neighbors")
    assert answer.stdout.startswith("round 1: 6 queries, 0 pictures\n")
    assert "neighbors" not in [path.name for path in (tmp_path / "out").iterdir()]
