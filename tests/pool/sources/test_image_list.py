from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, open_source

from ..conftest import encode, pattern

PNGS = [encode(pattern(seed), "PNG") for seed in range(4)]


def _open(path: Path | str, **fields: object) -> Source:
    return open_source(SourceSpec(**{"kind": "list", "path": str(path), "test_fraction": 0.0} | fields))


def _entries(source: Source, split: str = "pool") -> pa.Table:
    return pa.concat_tables(source.tables(split))


def _read(source: Source) -> list[bytes | UnreadableImage]:
    table = _entries(source)
    return source.read(table.column("uri").to_pylist(), table.column("row").to_pylist())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "im ages"
    folder.mkdir()
    for seed, data in enumerate(PNGS):
        (folder / f"{seed} #%41.png").write_bytes(data)
    return folder


def _write(path: Path, uris: list[str | None], labels: object = None) -> Path:
    columns = {"uri": pa.array(uris, pa.string())} | ({} if labels is None else {"label": pa.array(labels)})
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        lines = [
            ",".join("" if value is None else f'"{value}"' for value in row.values())
            for row in table.to_pylist()
        ]
        path.write_text("\n".join([",".join(table.column_names), *lines]) + "\n")
    else:
        pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_image_list__paths_and_uris_side_by_side(tmp_path: Path, images: Path, suffix: str) -> None:
    named = [
        "../im ages/0 #%41.png",
        f"{images}/1 #%41.png",
        (images / "2 #%41.png").as_uri(),
        "../im ages/gone.png",
        f"file://{images}/bad escape.png",
        "gopher://hole/1.png",
        None,
    ]
    path = _write(tmp_path / "lists" / f"list{suffix}", named, ["ape", "bee", "ape", None, None, None, "bee"])
    source = _open(path)
    assert source.class_names == ["ape", "bee"]
    table = _entries(source)
    assert table.column("label").to_pylist() == [0, 1, 0, None, None, None, 1]
    assert table.column("row").to_pylist() == list(range(7))
    assert table.column("uri").to_pylist()[0] == f"{images}/0 #%41.png"
    read = _read(source)
    assert read[:3] == PNGS[:3]
    assert [image.reason.partition(":")[0] for image in read[3:]] == [
        "no such file",
        "Cannot parse URI",
        "URI 'gopher",
        "no path or URI in this row",
    ]


def test_image_list__file_uri_of_the_list_itself(tmp_path: Path, images: Path) -> None:
    path = _write(images / "my list.csv", ["3 #%41.png", "./0 #%41.png"])
    assert _read(_open(path.as_uri(), label_column=None)) == [PNGS[3], PNGS[0]]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([2, 0, None, -1], ["0", "1", "2"], [2, 0, None, None]),
        (["x", "7", "x", ""], ["7", "x"], [1, 0, 1, None]),
        ([True, False, None, True], ["false", "true"], [1, 0, None, 1]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_image_list__labels(
    tmp_path: Path, labels: list, names: list[str], numbers: list, suffix: str
) -> None:
    if suffix == ".csv" and isinstance(labels[0], bool):
        labels = [None if label is None else str(label).lower() for label in labels]
    source = _open(_write(tmp_path / f"x{suffix}", ["a.png"] * 4, labels))
    assert source.class_names == names
    assert _entries(source).column("label").to_pylist() == numbers


def test_image_list__csv_label_that_turns_into_a_name_late(tmp_path: Path) -> None:
    labels = ["1"] * 200_000 + ["cow"]  # Arrow's CSV reader guesses a column's type by its first megabyte
    source = _open(_write(tmp_path / "x.csv", ["a.png"] * len(labels), labels))
    assert source.class_names == ["1", "cow"]
    assert [table.num_rows for table in source.tables("pool")] == [65_536] * 3 + [200_001 - 3 * 65_536]


def test_image_list__test_path_and_columns_by_name(tmp_path: Path, images: Path) -> None:
    pool = tmp_path / "pool.csv"
    pool.write_text("file,kind,uri\nim ages/0 #%41.png,ape,nonsense\n")
    test = tmp_path / "test.parquet"
    pq.write_table(pa.table({"file": ["im ages/1 #%41.png"], "kind": ["ape"]}), test)
    source = _open(pool, test_path=str(test), uri_column="file", label_column="kind")
    assert _read(source) == [PNGS[0]]
    table = _entries(source, "test")
    assert table.column("label").to_pylist() == [0]
    assert source.read(table.column("uri").to_pylist(), [0]) == [PNGS[1]]


def test_image_list__without_a_label_column(tmp_path: Path, images: Path) -> None:
    source = _open(_write(tmp_path / "x.csv", ["im ages/0 #%41.png"]), label_column=None)
    assert source.class_names is None
    assert _entries(source).column("label").to_pylist() == [None]


def test_image_list__what_is_no_file_is_set_aside(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr("dm2at_ray.pool.fetch.MAX_FILE_BYTES", len(PNGS[0]) - 1)
    source = _open(
        _write(tmp_path / "x.csv", ["pipe.png", "im ages", "im ages/0 #%41.png"]), label_column=None
    )
    pipe, folder, long = _read(source)
    assert (pipe.reason, folder.reason) == ("not a file", "not a file")
    assert long.reason == f"a file of {len(PNGS[0]):,} bytes is too long for an image"


def test_image_list__secret_in_a_uri_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.csv", ["a.png", "s3://key:topsecret@bucket/b.png"])
    with pytest.raises(PoolError, match="row 1 has a secret") as caught:
        _entries(_open(path, label_column=None))
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize("rows_before", [1, 200_000])  # the second lies behind Arrow's first block of 1 MiB
@pytest.mark.parametrize("threads", [1, 4])
def test_image_list__ragged_row_is_named_with_any_number_of_threads(
    tmp_path: Path, rows_before: int, threads: int
) -> None:
    (tmp_path / "x.csv").write_text("uri,label\n" + "a.png,1\n" * rows_before + "b.png\n")
    before = pa.cpu_count()
    pa.set_cpu_count(threads)
    try:
        with pytest.raises(PoolError) as caught:
            _entries(_open(tmp_path / "x.csv"))
    finally:
        pa.set_cpu_count(before)
    assert f"Row #{rows_before + 2}: Expected 2 columns, got 1: b.png" in str(caught.value)


def test_image_list__mistakes_name_the_field_the_value_and_the_mend(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [1], "label": [0.5]}), tmp_path / "numbers.parquet")
    (tmp_path / "ragged.csv").write_text("uri,label\na.png,1\nb.png\n")
    (tmp_path / "text.parquet").write_text("no Parquet")
    (tmp_path / "empty.csv").write_text("")
    _write(tmp_path / "x.csv", ["a.png"], ["cow"])
    (tmp_path / "header.csv").write_text("uri,label\n")
    mistakes = {
        "x.txt": r"data\.path '.*x\.txt': neither \.csv nor \.parquet; give",
        "nowhere.csv": r"data\.path '.*nowhere\.csv': no such file; give",
        "ragged.csv": r"data\.path '.*ragged\.csv': CSV parse error: Row #3: Expected 2.*; mend",
        "text.parquet": r"data\.path '.*text\.parquet': .*; mend",
        "empty.csv": r"data\.path '.*empty\.csv': .*; mend",
        "header.csv": r"data\.path '.*header\.csv': no images for the pool; give",
        "numbers.parquet": r"data\.uri_column 'uri': it holds int64, in data\.path",
        "x.csv": r"data\.label_column 'label': label 'cow' is none of the 1 classes.*null",
    }
    for name, message in mistakes.items():
        with pytest.raises(PoolError, match=message) as caught:
            _entries(_open(tmp_path / name, class_names=("ape",)))
        assert "\n" not in str(caught.value)
    with pytest.raises(PoolError, match=r"data\.uri_column 'path': no such column among uri, label"):
        _entries(_open(tmp_path / "x.csv", uri_column="path"))
    with pytest.raises(PoolError, match=r"data\.label_column 'kind': no such column among uri, label"):
        _entries(_open(tmp_path / "x.csv", label_column="kind"))
