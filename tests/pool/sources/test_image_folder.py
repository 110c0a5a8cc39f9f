from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, decode, open_source

from ..conftest import encode, pattern


def _write(root: Path, *names: str) -> None:
    """Image files, each with a pattern of its own: the seed is its place in ``names``."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(pattern(seed), "PNG"))


def _open(root: Path | str, **fields: object) -> Source:
    return open_source(SourceSpec(kind="image_folder", path=str(root), test_fraction=0.0, **fields))


def _entries(source: Source, root: Path, split: str = "pool") -> list[tuple[str, int | None]]:
    table = pa.concat_tables(source.tables(split))
    names = [uri.removeprefix(f"{root}/") for uri in table.column("uri").to_pylist()]
    return list(zip(names, table.column("label").to_pylist(), strict=True))


def test_image_folder__class_is_the_sub_folder(tmp_path: Path) -> None:
    _write(tmp_path, "dog/2.png", "dog/1.PNG", "cat/deep/3.png", "cat/b c#%.png", "cat/1.tiff", "0.png")
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "dog" / ".1.png").write_text("hidden")
    (tmp_path / ".thumbnails").mkdir()
    source = _open(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert _entries(source, tmp_path) == [
        ("0.png", None),
        ("cat/1.tiff", 0),
        ("cat/b c#%.png", 0),
        ("cat/deep/3.png", 0),
        ("dog/1.PNG", 1),
        ("dog/2.png", 1),
    ]


def test_image_folder__without_sub_folders_is_unlabeled(tmp_path: Path) -> None:
    _write(tmp_path, "b.png", "a.jpg")
    source = _open(tmp_path)
    assert source.class_names is None
    assert _entries(source, tmp_path) == [("a.jpg", None), ("b.png", None)]


def test_image_folder__given_names_set_the_numbers(tmp_path: Path) -> None:
    _write(tmp_path, "cat/1.png", "dog/1.png")
    source = _open(tmp_path, class_names=("dog", "eel", "cat"))
    assert _entries(source, tmp_path) == [("cat/1.png", 2), ("dog/1.png", 0)]
    with pytest.raises(PoolError, match=r"sub-folder 'dog'.*data\.class_names"):
        next(_open(tmp_path, class_names=("cat",)).tables("pool"))


def test_image_folder__test_path_names_the_classes_of_an_unlabeled_pool(tmp_path: Path) -> None:
    _write(tmp_path, "pool/1.png", "test/cat/1.png", "test/ape/1.png")
    source = _open(tmp_path / "pool", test_path=str(tmp_path / "test"))
    assert source.class_names == ["ape", "cat"]
    assert _entries(source, tmp_path, "pool") == [("pool/1.png", None)]
    assert _entries(source, tmp_path, "test") == [("test/ape/1.png", 0), ("test/cat/1.png", 1)]


def test_image_folder__test_class_that_the_pool_does_not_have(tmp_path: Path) -> None:
    _write(tmp_path, "pool/cat/1.png", "test/cow/1.png")
    source = _open(tmp_path / "pool", test_path=str(tmp_path / "test"))
    with pytest.raises(PoolError, match=r"data\.test_path .*'cow'"):
        next(source.tables("test"))


def test_image_folder__reads_in_any_order_and_returns_what_is_missing(tmp_path: Path) -> None:
    _write(tmp_path, "a/0.png", "a/1.png", "a/2 #%41.png")
    uris = [f"{tmp_path}/a/{name}" for name in ("2 #%41.png", "gone.png", "0.png")] + ["/elsewhere/1.png"]
    images = _open(tmp_path).read(uris, [0] * 4)
    np.testing.assert_array_equal(decode(images[0], 16, 3), pattern(2))
    np.testing.assert_array_equal(decode(images[2], 16, 3), pattern(0))
    assert [image.reason for image in images if isinstance(image, UnreadableImage)] == [
        "no such file",
        "not below data.path or data.test_path",
    ]


def test_image_folder__filesystem_uri(tmp_path: Path) -> None:
    _write(tmp_path, "a/0.png")
    source = _open(tmp_path.as_uri())
    (table,) = source.tables("pool")
    assert table.column("uri").to_pylist() == [f"file://{tmp_path}/a/0.png"]
    (image,) = source.read(table.column("uri").to_pylist(), [0])
    np.testing.assert_array_equal(decode(image, 16, 3), pattern(0))


def test_image_folder__missing_empty_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"data\.path '.*/nowhere': no such folder; give"):
        next(_open(tmp_path / "nowhere").tables("pool"))
    with pytest.raises(PoolError, match="no images for the pool; give"):
        next(_open(tmp_path).tables("pool"))
    (tmp_path / "file").write_text("")
    with pytest.raises(PoolError, match="not a folder"):
        next(_open(tmp_path / "file").tables("pool"))
    with pytest.raises(PoolError, match=r"data\.path 'gopher://hole'"):
        _open("gopher://hole")
