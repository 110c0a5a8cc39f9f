from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from torchvision.datasets import FashionMNIST

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, open_source

from ..conftest import write_idx

RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (5, 28, 28), np.uint8),
    "t10k": RNG.integers(0, 256, (3, 28, 28), np.uint8),
}
LABELS = {"train": np.array([9, 0, 1, 2, 3], np.uint8), "t10k": np.array([4, 5, 6], np.uint8)}


def _write(folder: Path, end: str = "") -> None:
    for stem in ("train", "t10k"):
        write_idx(folder / f"{stem}-images-idx3-ubyte{end}", IMAGES[stem])
        write_idx(folder / f"{stem}-labels-idx1-ubyte{end}", LABELS[stem])


def _open(path: Path | str) -> Source:
    return open_source(SourceSpec(kind="fashion_mnist", path=str(path)))


@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_fashion_mnist__train_is_the_pool_and_t10k_the_test(tmp_path: Path, folder: str, end: str) -> None:
    _write(tmp_path / folder, end)
    source = _open(tmp_path)
    for split, stem in (("pool", "train"), ("test", "t10k")):
        (table,) = source.tables(split)
        assert table.column("label").to_pylist() == LABELS[stem].tolist()
        images = source.read(table.column("uri").to_pylist(), table.column("row").to_pylist())
        np.testing.assert_array_equal(images, IMAGES[stem])


def test_fashion_mnist__reads_as_a_worker_does_without_listing(tmp_path: Path) -> None:
    _write(tmp_path)
    uris = [f"{tmp_path}/t10k-images-idx3-ubyte", f"{tmp_path}/train-images-idx3-ubyte"]
    images = _open(tmp_path).read(uris, [2, 4])
    np.testing.assert_array_equal(images, [IMAGES["t10k"][2], IMAGES["train"][4]])
    assert not images[0].flags.writeable


def test_fashion_mnist__row_beyond_the_file(tmp_path: Path) -> None:
    _write(tmp_path)
    (image,) = _open(tmp_path).read([f"{tmp_path}/train-images-idx3-ubyte"], [5])
    assert isinstance(image, UnreadableImage)


def test_fashion_mnist__a_missing_file(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(PoolError, match=r"data\.path .*t10k-labels-idx1-ubyte.*give the folder"):
        next(_open(tmp_path).tables("pool"))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x03" + bytes(12), "not an IDX file"),  # float elements
        (b"\x00\x00\x08\x03" + np.array([5, 28, 28], ">u4").tobytes() + bytes(99), "not an IDX file"),
    ],
)
def test_fashion_mnist__header_is_checked(tmp_path: Path, data: bytes, word: str) -> None:
    _write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(PoolError, match=word):
        next(_open(tmp_path).tables("pool"))


def test_fashion_mnist__a_truncated_download(tmp_path: Path) -> None:
    _write(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PoolError, match="fetch the file again"):
        next(_open(tmp_path).tables("pool"))


def test_fashion_mnist__labels_of_another_set(tmp_path: Path) -> None:
    _write(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS["t10k"])
    with pytest.raises(PoolError, match="5 images but 3 labels"):
        next(_open(tmp_path).tables("pool"))


def test_fashion_mnist__path_is_required() -> None:
    with pytest.raises(PoolError, match=r"data\.path is not set"):
        open_source(SourceSpec(kind="fashion_mnist"))


def test_fashion_mnist__the_real_set_as_torchvision_reads_it(fashion_mnist_dir: str, tmp_path: Path) -> None:
    source = _open(fashion_mnist_dir)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in Path(fashion_mnist_dir).glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    for split, train, total in (("pool", True, 60_000), ("test", False, 10_000)):
        expected = FashionMNIST(str(tmp_path), train=train, download=False)
        table = pa.concat_tables(source.tables(split))
        assert table.num_rows == total
        assert table.column("label").to_pylist() == expected.targets.tolist()
        rows = [0, 4_321, total - 1]
        images = source.read(table.column("uri").take(rows).to_pylist(), rows)
        np.testing.assert_array_equal(images, expected.data[rows].numpy())
    assert source.class_names == FashionMNIST.classes
