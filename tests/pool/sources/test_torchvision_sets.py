from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.io
from torchvision import datasets

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, decode, open_source
from dm2at_ray.pool.sources.cifar_files import read_batch

from ..conftest import encode, pattern, write_idx

RNG = np.random.default_rng(0)


def _open(root: Path, dataset: str | None, **fields: Any) -> Source:
    return open_source(SourceSpec(kind="torchvision", path=str(root), dataset=dataset, **fields))


def _agrees_with(source: Source, split: str, theirs: Any) -> None:
    """Every image, in reverse order, and every label as torchvision has them."""
    table = pa.concat_tables(source.tables(split))
    assert table.column("label").to_pylist() == [label for _, label in theirs]
    uris, rows = (table.column(name).to_pylist()[::-1] for name in ("uri", "row"))
    images = source.read(uris, rows)
    for image, (picture, _) in zip(images, reversed(list(theirs)), strict=True):
        channels = 1 if picture.mode == "L" else 3
        expected = np.asarray(picture).reshape(*picture.size[::-1], channels)
        np.testing.assert_array_equal(decode(image, picture.size[0], channels), expected)


def _python_2(value: Any) -> bytes:
    """A pickle as Python 2 wrote CIFAR's: text and pixels are byte strings, which Python 3 writes no more."""
    if isinstance(value, dict):
        items = b"".join(_python_2(key) + _python_2(item) for key, item in value.items())
        return b"}q\x01(" + items + b"u"
    if isinstance(value, list):
        return b"]q\x02(" + b"".join(map(_python_2, value)) + b"e"
    if isinstance(value, np.ndarray):
        shape = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in value.shape) + b"t"
        dtype = (
            b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNN"
            + b"J\xff\xff\xff\xff" * 2
            + b"K\x00tb"
        )
        raw = b"T" + struct.pack("<i", value.size) + value.tobytes()
        array = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
        return array + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    return b"K" + bytes([value])


def _write_cifar(root: Path, dump: Callable[[Any], bytes]) -> None:
    for folder, files, labels, meta, names in (
        (
            "cifar-10-batches-py",
            [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"],
            "labels",
            "batches.meta",
            "label_names",
        ),
        ("cifar-100-python", ["train", "test"], "fine_labels", "meta", "fine_label_names"),
    ):
        (root / folder).mkdir(parents=True)
        for file in files:
            data = RNG.integers(0, 256, (3, 3072), np.uint8)
            batch = {"batch_label": file, "data": data, labels: RNG.integers(0, 4, 3).tolist()}
            (root / folder / file).write_bytes(dump(batch))
        (root / folder / meta).write_bytes(dump({names: ["ape", "bee", "cow", "dog"]}))


@pytest.mark.parametrize(
    "dump",
    [
        lambda value: b"\x80\x02" + _python_2(value) + b".",
        *(lambda value, p=p: pickle.dumps(value, p) for p in (2, 3, 4)),
    ],
    ids=["python 2", "protocol 2", "protocol 3", "protocol 4"],
)
@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_torchvision__cifar_as_torchvision_reads_it(
    tmp_path: Path, name: str, dump: Callable[[Any], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_cifar(tmp_path, dump)
    source = _open(tmp_path, name)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for split, train in (("pool", True), ("test", False)):
        _agrees_with(source, split, getattr(datasets, name)(str(tmp_path), train=train))
    assert source.class_names == ["ape", "bee", "cow", "dog"]
    assert source.native_size() == (32, 3)


class _Spy:
    """Unpickles to the creation of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_torchvision__cifar_file_that_would_run_something(tmp_path: Path, protocol: int) -> None:
    _write_cifar(tmp_path, pickle.dumps)
    spied = tmp_path / "spied"
    data = pickle.dumps({"data": _Spy(spied), "labels": []}, protocol)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(data)
    with pytest.raises(PoolError, match=r"CIFAR10 cannot be read: data_batch_3: it "):
        next(_open(tmp_path, "CIFAR10").tables("pool"))
    assert not spied.exists()
    pickle.loads(data)
    assert spied.exists(), "the file was as dangerous as it was meant to be"


@pytest.mark.filterwarnings("ignore:invalid escape")
def test_read_batch__damage_anywhere_is_a_value_error() -> None:
    whole = b"\x80\x02" + _python_2({"data": np.zeros((2, 3), np.uint8), "labels": [1, 2]}) + b"."
    np.testing.assert_array_equal(read_batch(whole)["data"], np.zeros((2, 3)))
    refused = 0
    for place in range(len(whole)):
        for damaged in (
            whole[:place],
            *(whole[:place] + bytes([byte]) + whole[place + 1 :] for byte in range(0, 256, 15)),
        ):
            try:
                read_batch(damaged)
            except ValueError:
                refused += 1
    assert refused > 5 * len(whole)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_torchvision__idx_sets(tmp_path: Path, name: str) -> None:
    for stem, count in (("train", 7), ("t10k", 4)):
        raw = tmp_path / name / "raw"
        write_idx(raw / f"{stem}-images-idx3-ubyte", RNG.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(raw / f"{stem}-labels-idx1-ubyte", RNG.integers(0, 10, count, np.uint8))
    source = _open(tmp_path, name)
    for split, train in (("pool", True), ("test", False)):
        _agrees_with(source, split, getattr(datasets, name)(tmp_path, train=train))
    assert source.native_size() == (28, 1)
    (tmp_path / name / "processed").mkdir()
    with pytest.raises(PoolError, match="'processed' holds pickles of an older torchvision; remove"):
        next(_open(tmp_path, name).tables("pool"))


def test_torchvision__svhn_and_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("svhn", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_: True)
    binary = tmp_path / "stl10_binary"
    binary.mkdir()
    (binary / "class_names.txt").write_text("\n".join("abcdefghij"))
    for split in ("train", "test"):
        pixels = RNG.integers(0, 256, (32, 32, 3, 5), np.uint8)
        scipy.io.savemat(
            tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [2], [9], [10]])}
        )
        RNG.integers(0, 256, (2, 3, 96, 96), np.uint8).tofile(binary / f"{split}_X.bin")
        np.array([1, 10], np.uint8).tofile(binary / f"{split}_y.bin")
    for name in ("SVHN", "STL10"):
        for split, theirs in (("pool", "train"), ("test", "test")):
            _agrees_with(_open(tmp_path, name), split, getattr(datasets, name)(str(tmp_path), split=theirs))
    assert _open(tmp_path, "STL10").class_names == list("abcdefghij")
    assert _open(tmp_path, "SVHN").native_size() == (32, 3)


def test_torchvision__usps(tmp_path: Path) -> None:
    import bz2

    for name in ("usps.bz2", "usps.t.bz2"):
        lines = [
            f"{label} " + " ".join(f"{i}:{v:.3f}" for i, v in enumerate(RNG.uniform(-1, 1, 256), 1))
            for label in (1, 10)
        ]
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    _agrees_with(_open(tmp_path, "USPS"), "pool", datasets.USPS(str(tmp_path), train=True))
    _agrees_with(_open(tmp_path, "USPS"), "test", datasets.USPS(str(tmp_path), train=False))


def _write_images(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(pattern(seed), "PPM" if name.endswith("ppm") else "JPEG"))


def test_torchvision__sets_of_files(tmp_path: Path) -> None:
    _write_images(
        tmp_path / "gtsrb/GTSRB", "Training/00000/1.ppm", "Training/00007/2.ppm", "Final_Test/Images/3.ppm"
    )
    (tmp_path / "gtsrb/GT-final_test.csv").write_text("Filename;ClassId\n3.ppm;7\n")
    _write_images(tmp_path / "food-101/images", "pie/1.jpg", "pie/2.jpg", "soup/3.jpg", "soup/4.jpg")
    (tmp_path / "food-101/meta").mkdir()
    (tmp_path / "food-101/meta/train.json").write_text(json.dumps({"soup": ["soup/3"], "pie": ["pie/1"]}))
    (tmp_path / "food-101/meta/test.json").write_text(json.dumps({"soup": ["soup/4"], "pie": ["pie/2"]}))
    _write_images(tmp_path / "dtd/dtd/images", "dotted/1.jpg", "lined/2.jpg", "lined/3.jpg")
    (tmp_path / "dtd/dtd/labels").mkdir()
    (tmp_path / "dtd/dtd/labels/train1.txt").write_text("dotted/1.jpg\nlined/2.jpg\n")
    (tmp_path / "dtd/dtd/labels/test1.txt").write_text("dotted/1.jpg\nlined/3.jpg\n")
    planes = tmp_path / "fgvc-aircraft-2013b/data"
    _write_images(planes / "images", "11.jpg", "12.jpg", "13.jpg")
    (planes / "variants.txt").write_text("707-320\n727-200\n")
    (planes / "images_variant_trainval.txt").write_text("11 727-200\n12 707-320\n")
    (planes / "images_variant_test.txt").write_text("13 707-320\n")
    for name in ("GTSRB", "Food101", "DTD", "FGVCAircraft"):
        source = _open(tmp_path, name)
        for split, theirs in (("pool", "trainval" if name == "FGVCAircraft" else "train"), ("test", "test")):
            _agrees_with(source, split, getattr(datasets, name)(str(tmp_path), split=theirs))
        assert source.native_size() is None
        assert len(source.class_names) == (43 if name == "GTSRB" else 2)
    (tmp_path / "food-101/images/pie/1.jpg").unlink()
    source = _open(tmp_path, "Food101")
    table = pa.concat_tables(source.tables("pool"))
    there, gone, outside = source.read([*table.column("uri").to_pylist(), "/else"], [0, 1, 0])
    assert isinstance(there, bytes)
    assert [gone.reason, outside.reason] == ["no such file", "no such image in data.path"]
    assert isinstance(source.read([table.column("uri")[0].as_py()], [2])[0], UnreadableImage)


def test_torchvision__mistakes_name_the_field_the_value_and_the_mend(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"data\.dataset None: none of CIFAR10, .*; name one"):
        _open(tmp_path, None)
    with pytest.raises(PoolError, match=r"data\.dataset 'LSUN': none of"):
        _open(tmp_path, "LSUN")
    with pytest.raises(
        PoolError, match=r"data\.path 's3://bucket/sets': torchvision reads local folders only"
    ):
        open_source(SourceSpec(kind="torchvision", path="s3://bucket/sets", dataset="MNIST"))
    with pytest.raises(PoolError, match=r"data\.test_path 'x': .*; remove it"):
        _open(tmp_path, "MNIST", test_path="x")
    names = ["CIFAR10", "CIFAR100", "DTD", "FGVCAircraft", "FashionMNIST", "Food101", "GTSRB"]
    for name in [*names, "KMNIST", "MNIST", "STL10", "SVHN", "USPS"]:
        with pytest.raises(
            PoolError, match=rf"data\.path '{tmp_path}': {name} cannot be read: .*; give"
        ) as caught:
            next(_open(tmp_path, name).tables("pool"))
        assert "\n" not in str(caught.value)
        assert "download" not in str(caught.value)
    _write_cifar(tmp_path, pickle.dumps)
    with pytest.raises(PoolError, match=r"data\.class_names \('a',\): 1 names for the 4 classes of CIFAR10"):
        next(_open(tmp_path, "CIFAR10", class_names=("a",)).tables("pool"))
