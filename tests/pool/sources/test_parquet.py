from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, open_source

from ..conftest import encode, pattern

PNGS = [encode(pattern(seed), "PNG") for seed in range(10)]
RGB = np.stack([pattern(seed, size=4) for seed in range(10)])  # (10, 4, 4, 3)
GRAY = RGB[:, :, :, 0]


def _open(path: Path | str, **fields: object) -> Source:
    return open_source(SourceSpec(**{"kind": "parquet", "path": str(path), "test_fraction": 0.0} | fields))


def _write(path: Path, image: object, label: object = None, row_group_size: int = 3) -> Path:
    columns = {"image": image} if label is None else {"image": image, "label": label}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def _labels(source: Source, split: str = "pool") -> list[int | None]:
    return pa.concat_tables(source.tables(split)).column("label").to_pylist()


def _tensors(array: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def test_parquet__folder_is_listed_file_by_file_and_read_in_any_order(tmp_path: Path) -> None:
    _write(tmp_path / "pool/b.parquet", PNGS[:4], [0, 1, 2, 0])
    _write(tmp_path / "pool/a=1/c.parquet", PNGS[4:], [1] * 6)
    (tmp_path / "pool/_SUCCESS").write_text("")
    source = _open(tmp_path / "pool")
    (table,) = source.tables("pool")
    first, second = f"{tmp_path}/pool/a=1/c.parquet", f"{tmp_path}/pool/b.parquet"
    assert table.column("uri").to_pylist() == [first] * 6 + [second] * 4
    assert table.column("row").to_pylist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert table.column("label").to_pylist() == [1] * 6 + [0, 1, 2, 0]
    assert source.read([second, first, second, first], [3, 5, 0, 0]) == [PNGS[3], PNGS[9], PNGS[0], PNGS[4]]


def test_parquet__hugging_face_layout(tmp_path: Path) -> None:
    images = [{"bytes": PNGS[0], "path": "0.png"}, {"bytes": None, "path": "1.png"}, None]
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["ape", "bee"]}}}})}
    table = pa.table({"image": images, "label": [1, -1, 0]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "x.parquet")
    source = _open(tmp_path / "x.parquet")
    assert source.class_names == ["ape", "bee"]
    assert _labels(source) == [1, None, 0]
    present, path_only, null = source.read([f"{tmp_path}/x.parquet"] * 3, [0, 1, 2])
    assert present == PNGS[0]
    assert isinstance(path_only, UnreadableImage)
    assert isinstance(null, UnreadableImage)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (_tensors(RGB), RGB),
        (_tensors(GRAY), GRAY[..., None]),
        (_tensors(RGB.repeat(2, 1).repeat(2, 2).transpose(0, 3, 1, 2)), RGB.repeat(2, 1).repeat(2, 2)),
        (pa.array(list(RGB.reshape(10, -1)), pa.list_(pa.uint8(), 48)), RGB),
        (pa.array(list(GRAY.reshape(10, -1)), pa.list_(pa.uint8(), 16)), GRAY[..., None]),
        (pa.array(list(GRAY.reshape(10, -1)), pa.list_(pa.uint8())), GRAY[..., None]),
        (pa.array(GRAY.tolist(), pa.list_(pa.list_(pa.uint8(), 4), 4)), GRAY[..., None]),
        (pa.array(RGB.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))), RGB),
    ],
    ids=["HWC", "HW", "CHW", "flat RGB", "flat gray", "loose flat gray", "nested gray", "loose nested RGB"],
)
def test_parquet__pixels(tmp_path: Path, column: pa.Array, expected: np.ndarray) -> None:
    uri = str(_write(tmp_path / "x.parquet", column))
    source = _open(uri, label_column=None)
    np.testing.assert_array_equal(source.read([uri] * 3, [7, 0, 2]), expected[[7, 0, 2]])
    loose = pa.types.is_list(column.type)
    assert source.native_size() == (None if loose else (expected.shape[1], expected.shape[3]))


def test_parquet__permuted_tensor_is_put_upright(tmp_path: Path) -> None:
    stored = RGB.transpose(0, 3, 1, 2)  # channels first in memory, and the type says so
    tensor_type = pa.fixed_shape_tensor(pa.uint8(), [3, 4, 4], permutation=[1, 2, 0])
    storage = pa.array(list(stored.reshape(10, -1)), tensor_type.storage_type)
    uri = str(_write(tmp_path / "x.parquet", pa.ExtensionArray.from_storage(tensor_type, storage)))
    np.testing.assert_array_equal(_open(uri, label_column=None).read([uri], [5])[0], RGB[5])


def test_parquet__encoded_images_have_no_native_size(tmp_path: Path) -> None:
    assert _open(_write(tmp_path / "x.parquet", PNGS)).native_size() is None


def test_parquet__string_labels_are_numbered_by_name(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", PNGS[:3], ["dog", None, "cat"])
    _write(tmp_path / "b.parquet", PNGS[:2], pa.array(["ape", "dog"]).dictionary_encode())
    source = _open(tmp_path)
    assert source.class_names == ["ape", "cat", "dog"]
    assert _labels(source) == [2, None, 1, 0, 2]
    assert _labels(_open(tmp_path, class_names=("dog", "cat", "ape"))) == [0, None, 1, 2, 0]


def test_parquet__integer_labels_name_themselves(tmp_path: Path) -> None:
    source = _open(_write(tmp_path / "x.parquet", PNGS[:4], pa.array([2, -1, None, 0], pa.int8())))
    assert source.class_names == ["0", "1", "2"]
    assert _labels(source) == [2, None, None, 0]


def test_parquet__without_a_label_column(tmp_path: Path) -> None:
    source = _open(_write(tmp_path / "x.parquet", PNGS, [1] * 10), label_column=None)
    assert source.class_names is None
    assert _labels(source) == [None] * 10


def test_parquet__unlabeled_pool_takes_the_classes_of_its_test_images(tmp_path: Path) -> None:
    pool = _write(tmp_path / "pool.parquet", PNGS[:2], pa.nulls(2, pa.string()))
    test = _write(tmp_path / "test.parquet", PNGS[2:4], ["bee", "ape"])
    source = _open(pool, test_path=str(test))
    assert _labels(source) == [None, None]
    assert _labels(source, "test") == [1, 0]
    assert source.read([str(test), str(pool)], [0, 1]) == [PNGS[2], PNGS[1]]


def test_parquet__listing_never_reads_the_images(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.parquet", PNGS, [1] * 10)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    source = _open(path)
    assert _labels(source) == [1] * 10
    *spoiled, fine = source.read([str(path)] * 4, [0, 1, 2, 3])
    assert all(isinstance(image, UnreadableImage) for image in spoiled)
    assert fine == PNGS[3]


def test_parquet__row_groups_are_read_once_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(_write(tmp_path / "x.parquet", PNGS, row_group_size=2))
    groups = []
    read_row_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **options: groups.append(group) or read_row_group(self, group, **options),
    )
    monkeypatch.setattr("dm2at_ray.pool.sources.parquet._CACHED_BYTES", 1)
    source = _open(uri, label_column=None)
    rows = [9, 0, 8, 1, 0]
    assert source.read([uri] * 5, rows) == [PNGS[row] for row in rows]
    assert groups == [0, 4]


def test_parquet__what_is_gone_is_returned(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.parquet", PNGS)
    images = _open(path.parent).read([str(path), str(path), f"{tmp_path}/y.parquet", "/z"], [0, 10, 0, 0])
    assert images[0] == PNGS[0]
    assert all(isinstance(image, UnreadableImage) for image in images[1:])
    assert images[1].reason == "the file has only 10 rows"


def test_parquet__filesystem_uri(tmp_path: Path) -> None:
    path = _write(tmp_path / "x y.parquet", PNGS[:2])
    source = _open(tmp_path.as_uri(), label_column=None)
    (table,) = source.tables("pool")
    assert table.column("uri").to_pylist() == [f"file://{path}"] * 2
    images = source.read(table.column("uri").to_pylist(), [1, 0])
    assert Image.open(io.BytesIO(images[0])).size == (16, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "nowhere"}, r"data\.path '.*nowhere': no such file or folder; give"),
        ({"path": "empty"}, r"data\.path '.*empty': no Parquet files there; give"),
        ({"path": "text.parquet"}, r"data\.path '.*text\.parquet': .*; replace or remove"),
        (
            {"image_column": "picture"},
            r"data\.image_column 'picture': .* has only image, label, score; name one",
        ),
        ({"image_column": "label"}, r"data\.image_column 'label': .* holds int64 there; name"),
        (
            {"label_column": "class"},
            r"data\.label_column 'class': no such column among image, label, score.*null",
        ),
        ({"label_column": "score"}, r"data\.label_column 'score': it holds double.*; name"),
        ({"class_names": ("a", "b")}, r"data\.label_column 'label': label 7 is none of the 2 classes"),
        ({"test_path": "named.parquet"}, r"data\.label_column 'label': not int labels.*data\.test_path"),
    ],
)
def test_parquet__mistakes_name_the_field_the_value_and_the_mend(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no Parquet at all")
    _write(tmp_path / "named.parquet", PNGS[:1], ["cat"])
    pq.write_table(
        pa.table({"image": PNGS[:2], "label": [0, 7], "score": [0.5, 0.5]}), tmp_path / "x.parquet"
    )
    paths = {name: str(tmp_path / str(fields[name])) for name in ("path", "test_path") if name in fields}
    source = _open(**{"path": tmp_path / "x.parquet"} | fields | paths)
    with pytest.raises(PoolError, match=message) as caught:
        list(source.tables("test" if "test_path" in fields else "pool"))
    assert "\n" not in str(caught.value)


def test_parquet__labels_that_are_ids(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.parquet", PNGS[:2], [0, 10_000_000])
    with pytest.raises(PoolError, match="more than 100000 classes"):
        next(_open(path).tables("pool"))
