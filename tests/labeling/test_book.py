"""The log of labels: what counts, what is kept, and many who write at once."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from dm2at_ray.errors import RunError
from dm2at_ray.labeling import LabelBook
from dm2at_ray.labeling.book import RECORDS_SCHEMA
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files

NOON = datetime(2025, 11, 3, 12, tzinfo=timezone.utc)


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    run = RunDirectory(str(tmp_path / "run"))
    if request.param == "memory":
        run.files = Files(fs._MockFileSystem(), "bucket/run")
    return run


def said(labels: dict[int, str | None], round_index: int = 0) -> pa.Table:
    return pa.table(
        {
            "sample_id": pa.array(labels, pa.int64()),
            "label": pa.array(labels.values(), pa.string()),
            "round": [round_index] * len(labels),
        }
    )


def labels_of(table: pa.Table) -> dict[int, str | None]:
    return dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_book__an_empty_one(run: RunDirectory) -> None:
    book = LabelBook(run)
    assert book.records().schema.equals(RECORDS_SCHEMA)
    assert book.records().num_rows == book.effective().num_rows == book.effective([1]).num_rows == 0
    assert book.append(said({}), "ann") is None
    assert not run.files.exists("labels")


def test_append__the_record_says_what_by_whom_and_when(run: RunDirectory) -> None:
    name = LabelBook(run).append(said({7: "cat", 3: None}, 2), "ann", NOON)
    assert run.files.names("labels") == [name]
    assert LabelBook(run).records().to_pylist() == [
        {"sample_id": sample, "label": label, "round": 2, "source": "ann", "time": NOON, "file": name}
        for sample, label in ((7, "cat"), (3, None))
    ]


def test_effective__the_later_word_counts_and_the_earlier_is_kept(run: RunDirectory) -> None:
    book = LabelBook(run)
    book.append(said({9: "dog", 7: "cat", 3: None}), "ann", NOON)
    book.append(said({7: "dog", 3: "cat"}), "bob", NOON + timedelta(hours=1))
    book.append(said({9: None}), "ann", NOON + timedelta(hours=2))
    for each in (book, LabelBook(run)):
        assert list(labels_of(each.effective()).items()) == [(3, "cat"), (7, "dog"), (9, None)]
        assert each.records()["label"].to_pylist() == ["dog", "cat", None, "dog", "cat", None]
        assert labels_of(each.effective([9, 8, 3])) == {3: "cat", 9: None}


def test_append__only_what_differs_is_written(run: RunDirectory) -> None:
    book = LabelBook(run)
    book.append(said({7: "cat", 3: None}), "ann", NOON)
    assert book.append(said({3: None, 7: "cat"}), "bob", NOON) is None
    book.append(said({3: None, 7: "dog", 8: None}), "bob", NOON)
    assert [(r["sample_id"], r["label"]) for r in book.records().to_pylist()[2:]] == [(7, "dog"), (8, None)]


def test_append__counts_as_later_though_its_clock_is_behind(run: RunDirectory) -> None:
    book = LabelBook(run)
    book.append(said({7: "cat"}), "ann", NOON + timedelta(days=400))
    book.append(said({7: "dog"}), "bob", NOON)
    LabelBook(run).append(said({7: "cow"}), "eve", NOON)
    assert labels_of(LabelBook(run).effective()) == {7: "cow"}
    times = LabelBook(run).records()["time"].to_pylist()
    assert times == sorted(set(times))


def test_append__refuses_two_words_on_one_sample(run: RunDirectory) -> None:
    twice = pa.concat_tables([said({7: "cat"}), said({7: "dog"})])
    with pytest.raises(ValueError, match="given twice"):
        LabelBook(run).append(twice, "ann")
    assert run.files.names("labels") == []


def test_records__of_one_moment_are_ordered_by_file_alike_for_all(run: RunDirectory) -> None:
    first = LabelBook(run).append(said({7: "cat"}), "ann", NOON)
    assert first is not None
    # What a second importer leaves that looked before the first wrote.
    table = run.files.read_table(f"labels/{first}").set_column(1, "label", [["dog"]])
    for letter in "0f":
        run.files.write_table(f"labels/{first[:20]}-{letter * 32}.parquet", table)
    effective = LabelBook(run).effective().to_pylist()
    assert [r["file"] for r in effective] == [f"{first[:20]}-{'f' * 32}.parquet"]


def test_records__a_book_that_has_looked_sees_what_others_add(run: RunDirectory) -> None:
    book = LabelBook(run)
    assert book.records().num_rows == 0
    LabelBook(run).append(said({7: "cat"}), "ann")
    assert labels_of(book.effective()) == {7: "cat"}


def test_records__unfinished_writes_and_other_files_are_not_seen(run: RunDirectory) -> None:
    name = LabelBook(run).append(said({7: "cat"}), "ann")
    run.files.write_bytes(f"labels/.{name}.0123.tmp", b"PAR1")
    run.files.write_bytes("labels/notes.txt", b"bob is on holiday")
    LabelBook(run).accept_partial(0, "ann")
    assert labels_of(LabelBook(run).effective()) == {7: "cat"}


@pytest.mark.parametrize("data", [b"", b"PAR1 no more"])
def test_records__a_damaged_file_is_named(run: RunDirectory, data: bytes) -> None:
    name = f"{12:020d}-{'a' * 32}.parquet"
    run.files.write_bytes(f"labels/{name}", data)
    with pytest.raises(RunError, match=f"{name}: .*; restore the file, or move it away") as refused:
        LabelBook(run).records()
    assert "\n" not in str(refused.value)


def test_records__a_table_of_something_else_is_named(run: RunDirectory) -> None:
    name = f"{12:020d}-{'a' * 32}.parquet"
    run.files.write_table(f"labels/{name}", pa.table({"sample_id": [1]}))
    with pytest.raises(RunError, match=f"{name}: "):
        LabelBook(run).records()


def test_differing__null_is_a_word_of_its_own(run: RunDirectory) -> None:
    book = LabelBook(run)
    book.append(said({1: "cat", 2: None}), "ann")
    frozen = said({1: None, 2: None, 3: None, 4: "cat"})
    assert labels_of(book.differing(frozen)) == {1: None, 3: None, 4: "cat"}


def test_accept_partial__is_of_one_round(run: RunDirectory) -> None:
    book = LabelBook(run)
    assert not book.is_accepted(3)
    book.accept_partial(3, "ann")
    assert LabelBook(run).is_accepted(3)
    assert not book.is_accepted(2)
    assert run.files.read_json("labels/accepted-0003.json")["source"] == "ann"


IMPORTER = """
import sys
import pyarrow as pa
from dm2at_ray.labeling import LabelBook
from dm2at_ray.store import RunDirectory
run_dir, who, imports = sys.argv[1], sys.argv[2], int(sys.argv[3])
book = LabelBook(RunDirectory(run_dir))
print("ready", flush=True)
sys.stdin.readline()
for turn in range(imports):
    own = {"sample_id": [1000 * ord(who) + turn, 5], "label": [who, f"{who}{turn}"], "round": [0, 0]}
    book.append(pa.table(own), who)
"""


def test_append__by_two_processes_at_once_loses_nothing(tmp_path: Path) -> None:
    imports, people = 30, "ab"
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", IMPORTER, str(tmp_path), who, str(imports)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in people
    ]
    for process in begun:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in begun:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in begun:
        process.communicate(timeout=60)
        assert process.returncode == 0
    records = LabelBook(RunDirectory(str(tmp_path))).records().to_pylist()
    for who in people:
        own = [r for r in records if r["source"] == who]
        assert {r["sample_id"] for r in own} == {1000 * ord(who) + turn for turn in range(imports)} | {5}
        on_shared = [r["label"] for r in own if r["sample_id"] == 5]
        assert on_shared == [f"{who}{turn}" for turn in range(imports)], "each one's words in their order"
    assert len(records) == 4 * imports
    sources = [r["source"] for r in records]
    assert sources != sorted(sources), "they did write at the same time"


def test_records__of_thousands_of_files(tmp_path: Path) -> None:
    book = LabelBook(RunDirectory(str(tmp_path)))
    name = book.append(said(dict.fromkeys(range(20), "cat")), "ann", NOON)
    assert name is not None
    data = (tmp_path / "labels" / name).read_bytes()
    for place in range(2000):
        (tmp_path / "labels" / f"{place:020d}-{'0' * 32}.parquet").write_bytes(data)
    begin = time.perf_counter()
    assert book.records().num_rows == 2001 * 20
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    assert book.effective().num_rows == 20
    again = time.perf_counter() - begin
    assert first < 20, "far above what it takes, for a busy machine"
    assert again < first
