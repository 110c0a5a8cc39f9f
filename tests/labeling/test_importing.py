"""What an import checks, line by line, and what it does."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling import (
    FORMATS,
    ImportReport,
    LabelBook,
    export_queries,
    import_labels,
    labels_history,
    labels_status,
)
from dm2at_ray.labeling.checks import (
    CONFLICT,
    CORRECTION,
    NEW,
    NOT_ASKED,
    OPEN,
    OTHER_IMAGE,
    REPEATED,
    SAME,
    SKIPPED,
    UNKNOWN_CLASS,
    UNKNOWN_SAMPLE,
)
from dm2at_ray.store import Lease, RunDirectory

from .asked_run import ASKED, FIRST, AskedRun, make_asked_run

EXPORTS = Path(__file__).parent / "label_studio"


def csv_file(path: Path, *lines: tuple[object, str]) -> str:
    rows = [f"{sample},{label}" for sample, label in lines]
    path.write_text("\n".join(["sample_id,label", *rows]) + "\n", encoding="utf-8")
    return str(path)


def effective(run: RunDirectory) -> dict[int, str | None]:
    table = LabelBook(run).effective(ASKED)
    return dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def log(run: RunDirectory) -> list[str]:
    return run.files.names("labels")


def kinds(report: ImportReport) -> list[tuple[str, str]]:
    return [(line.sample, line.kind) for line in report.lines]


def test_import__what_is_said_for_the_first_time(asked_run: AskedRun, tmp_path: Path) -> None:
    file = csv_file(tmp_path / "ann.csv", (1300, "one"), ("5.0", "cannot tell"), (41, ""), (7, "three"))
    report = import_labels(asked_run.directory, [file])
    assert kinds(report) == [("1300", NEW), ("5.0", SKIPPED), ("41", OPEN), ("7", CORRECTION)]
    assert effective(asked_run.directory) == {1300: "one", 5: None}
    assert (report.round, report.asked, report.answered) == (1, 6, 2)
    assert report.missing == [41, 1024, 0, 600]
    assert report.written in log(asked_run.directory)
    records = LabelBook(asked_run.directory).records().to_pylist()[-3:]
    assert [(r["sample_id"], r["round"], r["source"]) for r in records] == [
        (1300, 1, "ann.csv"),
        (5, 1, "ann.csv"),
        (7, 0, "ann.csv"),
    ]


def test_import__again_changes_nothing(asked_run: AskedRun, tmp_path: Path) -> None:
    file = csv_file(tmp_path / "ann.csv", (1300, "one"), (5, "cannot tell"))
    import_labels(asked_run.directory, [file])
    before = log(asked_run.directory)
    report = import_labels(asked_run.directory, [file], source="bob")
    assert kinds(report) == [("1300", SAME), ("5", SAME)]
    assert report.written is None
    assert log(asked_run.directory) == before


def test_import__a_correction_keeps_what_was_said_before(asked_run: AskedRun, tmp_path: Path) -> None:
    import_labels(asked_run.directory, [csv_file(tmp_path / "a.csv", (1300, "one"), (5, "cannot tell"))])
    corrected = csv_file(tmp_path / "b.csv", (1300, "cannot tell"), (5, "two"), (FIRST[0], "nine"))
    report = import_labels(asked_run.directory, [corrected], source="bob")
    assert [line.about for line in report.of(CORRECTION)] == [
        "was 'one'",
        "was 'cannot tell'",
        f"was '{asked_run.names[FIRST[0]]}'",
    ]
    assert effective(asked_run.directory) == {1300: None, 5: "two"}
    history = labels_history(asked_run.directory, 5)
    assert [(r["label"], r["source"], r["was"]) for r in history] == [
        (None, "a.csv", None),
        ("two", "bob", {"label": None}),
    ]


@pytest.mark.parametrize(
    ("sample", "label", "kind", "about"),
    [
        ("99999", "one", UNKNOWN_SAMPLE, "the pool has the ids 0 to 1452"),
        ("-3", "one", UNKNOWN_SAMPLE, "the pool has the ids 0 to 1452"),
        ("cat.png", "one", UNKNOWN_SAMPLE, "the pool has the ids 0 to 1452"),
        ("9" * 30, "one", UNKNOWN_SAMPLE, "the pool has the ids 0 to 1452"),
        ("600.5", "one", UNKNOWN_SAMPLE, "the pool has the ids 0 to 1452"),
        ("2", "one", NOT_ASKED, "no round has asked for it"),
        ("600", "Tow", UNKNOWN_CLASS, "did you mean 'two'? the classes are zero, one, two,"),
        ("600", "TWO", UNKNOWN_CLASS, "did you mean 'two'? "),
        ("600", "giraffe", UNKNOWN_CLASS, "the classes are zero, one, two, three, four, five, six, seven, "),
    ],
)
def test_import__a_line_that_is_wrong_stops_all(
    asked_run: AskedRun, tmp_path: Path, sample: str, label: str, kind: str, about: str
) -> None:
    file = csv_file(tmp_path / "ann.csv", (1300, "one"), (sample, label))
    before = log(asked_run.directory)
    report = import_labels(asked_run.directory, [file])
    assert kinds(report) == [("1300", NEW), (sample, kind)]
    assert report.refused[0].where == "line 3"
    assert about in report.refused[0].about
    assert log(asked_run.directory) == before
    assert report.written is None
    assert report.answered == 0
    kept = import_labels(asked_run.directory, [file], keep_good=True)
    assert kept.written is not None
    assert effective(asked_run.directory) == {1300: "one"}


def test_import__two_labels_for_one_sample_over_all_files(asked_run: AskedRun, tmp_path: Path) -> None:
    one = csv_file(tmp_path / "ann.csv", (1300, "one"), (5, "two"), (41, "four"), (41, "four"))
    two = csv_file(tmp_path / "bob.csv", (1300, "seven"), (5, "cannot tell"), ("41", "four"))
    report = import_labels(asked_run.directory, [one, two], keep_good=True)
    assert [kind for _, kind in kinds(report)] == [
        CONFLICT,
        CONFLICT,
        NEW,
        REPEATED,
        CONFLICT,
        CONFLICT,
        REPEATED,
    ]
    assert report.refused[0].about == f"but 'seven' in {two}, line 2"
    assert effective(asked_run.directory) == {41: "four"}


@pytest.mark.parametrize("name", ["csv", "parquet", "label-studio"])
def test_import__into_a_run_of_other_images(asked_run: AskedRun, name: str) -> None:
    run = asked_run.directory
    LabelBook(run).append(pa.table({"sample_id": [5], "label": ["two"], "round": [1]}), "ann")
    exported = export_queries(run, asked_run.source, name)
    other = make_asked_run(run.uri + "-other").directory
    manifest = other.manifest_files("pool")
    part = manifest.read_table("part-00000.parquet")
    rows = part["row"].to_numpy() + 1
    manifest.write_table("part-00000.parquet", part.set_column(2, "row", pa.array(rows)))
    report = import_labels(other, [exported.index])
    assert {line.kind for line in report.lines} == {OTHER_IMAGE}
    assert report.refused[1].about.startswith(
        "the file says it of sklearn:digits, row 8, the run has sklearn:digits, row 9 there; import it into"
    )


def test_import__while_a_run_is_at_work_only_adds_to_the_log(asked_run: AskedRun, tmp_path: Path) -> None:
    run = asked_run.directory
    Lease(run.files, "driver").acquire()
    run.write_status({"phase": "training", "round": 1})
    place = Path(run.uri)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    file = csv_file(tmp_path / "ann.csv", (1300, "one"), (FIRST[0], "nine"))
    report = import_labels(run, [file], accept_partial=True)
    after = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    added = {str(path.relative_to(place)) for path in after.keys() - before.keys()}
    assert added == {f"labels/{report.written}", "labels/accepted-0001.json"}


def test_import__a_class_that_is_added(asked_run: AskedRun, tmp_path: Path) -> None:
    file = csv_file(tmp_path / "ann.csv", (1300, "a letter"))
    report = import_labels(asked_run.directory, [file])
    assert "--add-class 'a letter' makes it one" in report.refused[0].about
    assert not import_labels(asked_run.directory, [file], add_classes=["a letter"]).refused
    assert effective(asked_run.directory) == {1300: "a letter"}
    assert not import_labels(asked_run.directory, [file]).refused, "a class from now on"


def test_import__cannot_tell_may_be_a_class(asked_run: AskedRun, tmp_path: Path) -> None:
    file = csv_file(tmp_path / "ann.csv", (1300, "cannot tell"))
    import_labels(asked_run.directory, [file], add_classes=["cannot tell"])
    assert effective(asked_run.directory) == {1300: "cannot tell"}


def test_import__accept_partial(asked_run: AskedRun, tmp_path: Path) -> None:
    run = asked_run.directory
    with pytest.raises(LabelError, match="round 1 has no label at all to go on with"):
        import_labels(run, [], accept_partial=True)
    bad = csv_file(tmp_path / "bad.csv", (1300, "one"), (5, "giraffe"))
    assert import_labels(run, [bad], accept_partial=True).accepted is None
    assert not LabelBook(run).is_accepted(1)
    report = import_labels(run, [bad], accept_partial=True, keep_good=True)
    assert (report.accepted, report.answered, len(report.missing)) == (1, 1, 5)
    assert LabelBook(run).is_accepted(1)
    run.round(1).commit()
    with pytest.raises(LabelError, match="no round awaits labels now"):
        import_labels(run, [], accept_partial=True)


@pytest.mark.parametrize("name", FORMATS)
def test_import__of_every_format_as_it_was_exported_and_filled_in(asked_run: AskedRun, name: str) -> None:
    run = asked_run.directory
    LabelBook(run).append(
        pa.table({"sample_id": ASKED, "label": [asked_run.truth[s] for s in ASKED], "round": [1] * 6}), "ann"
    )
    exported = export_queries(run, asked_run.source, name)
    other = make_asked_run(run.uri + "-other").directory
    report = import_labels(other, [exported.index])
    assert report.counts() == {NEW: 6}
    assert report.missing == []
    assert effective(other) == asked_run.truth


def test_import__a_real_export_of_label_studio(asked_run: AskedRun) -> None:
    report = import_labels(asked_run.directory, [str(EXPORTS / "export.json")])
    assert report.counts() == {NEW: 3, SKIPPED: 2, OPEN: 1}
    truth = asked_run.truth
    expected = {1300: truth[1300], 41: truth[41], 1024: truth[1024], 5: None, 600: None}
    assert effective(asked_run.directory) == expected
    assert report.missing == [0]
    by = {line.sample: line.by for line in report.lines}
    assert (by["1300"], by["41"]) == ("user 1", "user 2")
    for same in ("export_min.json", "export.csv"):
        again = import_labels(asked_run.directory, [str(EXPORTS / same)])
        assert again.counts() == {SAME: 4, OPEN: 1}


@pytest.mark.parametrize("file", ["conflict.json", "conflict.csv"])
def test_import__people_who_disagree_in_label_studio(asked_run: AskedRun, file: str) -> None:
    report = import_labels(asked_run.directory, [str(EXPORTS / file)])
    assert {line.sample for line in report.refused} == {"1300"}
    assert {line.about[:10] for line in report.refused} == {"but 'one' ", "but 'nine'"}
    assert report.written is None


def test_import__files_that_cannot_be_read(asked_run: AskedRun, tmp_path: Path) -> None:
    none = str(tmp_path / "none.csv")
    with pytest.raises(LabelError, match=r"none\.csv: no such file; give a file of labels"):
        import_labels(asked_run.directory, [none])
    with pytest.raises(LabelError, match=f"{tmp_path}: .*; give a file of labels"):
        import_labels(asked_run.directory, [str(tmp_path)])
    file = csv_file(tmp_path / "ann.csv", (1300, "one"))
    with pytest.raises(LabelError, match=r"ann\.csv: .*; give a Parquet file"):
        import_labels(asked_run.directory, [file], format_name="parquet")
    assert not import_labels(asked_run.directory, [f"file://{file}"]).refused


def test_import__of_ten_thousand_labels_is_quick(tmp_path: Path) -> None:
    asked = list(range(50, 1200))
    run = make_asked_run(str(tmp_path / "digits"), asked)
    lines = [(sample, run.names[sample]) for sample in asked] * 9
    file = csv_file(tmp_path / "many.csv", *lines[:10_000], *[(sample, "giraffe") for sample in asked])
    begin = time.perf_counter()
    report = import_labels(run.directory, [file], keep_good=True)
    assert time.perf_counter() - begin < 10, "a second or two on a machine with nothing else to do"
    assert report.counts() == {NEW: 1150, REPEATED: 8850, UNKNOWN_CLASS: 1150}


def test_status__by_round_and_by_source(asked_run: AskedRun, tmp_path: Path) -> None:
    run = asked_run.directory
    import_labels(run, [csv_file(tmp_path / "a.csv", (1300, "one"), (5, "cannot tell"), (3, "nine"))])
    status = labels_status(run)
    assert status["rounds"] == [
        {
            "round": 0,
            "asked": 4,
            "labeled": 4,
            "skipped": 0,
            "missing": 0,
            "accepted": False,
            "committed": True,
        },
        {
            "round": 1,
            "asked": 6,
            "labeled": 1,
            "skipped": 1,
            "missing": 4,
            "accepted": False,
            "committed": False,
        },
    ]
    assert status["corrections"] == 1
    assert status["sources"] == {"ann": 3, "a.csv": 3}
    assert sum(status["classes"].values()) == 5


def test_history__a_word_that_two_said_at_once_is_no_correction(asked_run: AskedRun) -> None:
    run = asked_run.directory
    table = pa.table({"sample_id": np.array([5]), "label": ["two"], "round": [1]})
    first = LabelBook(run).append(table, "ann")
    assert first is not None
    run.files.write_bytes(f"labels/{first[:20]}-{'f' * 32}.parquet", run.files.read_bytes(f"labels/{first}"))
    assert [row["was"] for row in labels_history(run, 5)] == [None, None]
    assert labels_status(run)["corrections"] == 0
