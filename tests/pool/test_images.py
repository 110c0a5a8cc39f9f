from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from sklearn.datasets import load_digits

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Manifest, Pool, SourceSpec, open_source

from .conftest import encode, pattern


@pytest.fixture
def folder_pool(tmp_path: Path, build_manifest: Callable[..., Manifest]) -> Pool:
    """Six images, one of them broken: id i is the pattern of seed i; ids 0 to 2 are apes, the others bees."""
    for seed in range(6):
        path = tmp_path / "images" / ("ape" if seed < 3 else "bee") / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pattern(seed), "PNG") if seed != 1 else b"broken")
    source = open_source(SourceSpec(kind="image_folder", path=str(tmp_path / "images"), test_fraction=0.0))
    return Pool(build_manifest(source, 16, 3), source, image_size=16, channels=3)


def test_pool__reads_images_and_labels_in_the_order_of_the_ids(folder_pool: Pool) -> None:
    ids = np.array([5, 0, 3, 0])
    images = folder_pool.read(ids)
    assert (images.dtype, images.shape) == (np.uint8, (4, 16, 16, 3))
    np.testing.assert_array_equal(images, np.stack([pattern(seed) for seed in ids]))
    np.testing.assert_array_equal(folder_pool.labels(ids), [1, 0, 1, 0])
    assert folder_pool.read(np.array([], dtype=np.int64)).shape == (0, 16, 16, 3)


def test_pool__images_set_aside_keep_their_id_but_have_no_image(folder_pool: Pool) -> None:
    assert folder_pool.size == 6
    assert folder_pool.rejected_ids().tolist() == [1]
    with pytest.raises(ValueError, match="set aside"):
        folder_pool.read(np.array([0, 1]))


def test_pool__image_that_has_become_unreadable(folder_pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "images" / "bee" / "4.png"
    path.unlink()
    with pytest.raises(PoolError, match=rf"sample 4 \('{path}', row 0\).*no such file; restore it"):
        folder_pool.read(np.array([3, 4]))


def test_pool__opened_by_a_worker_reads_the_digits(
    tmp_path: Path, build_manifest: Callable[..., Manifest]
) -> None:
    spec = SourceSpec(kind="digits", test_fraction=0.3)
    build_manifest(open_source(spec), 8, 1)
    pool = Pool.open(fs.LocalFileSystem(), str(tmp_path / "manifest"), open_source(spec), 8, 1)
    ids = np.random.default_rng(0).permutation(pool.size)[:200]
    places = pool.manifest.rows(ids).column("row").to_numpy()
    digits = load_digits()
    np.testing.assert_array_equal(pool.read(ids)[..., 0], np.rint(digits.images[places] * 255 / 16))
    np.testing.assert_array_equal(pool.labels(ids), digits.target[places])


def test_pool__parquet_with_unknown_labels(tmp_path: Path, build_manifest: Callable[..., Manifest]) -> None:
    images = [encode(pattern(seed, channels=1), "PNG") for seed in range(40)]
    labels = [None if seed % 4 == 0 else seed % 4 for seed in range(40)]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "x.parquet", row_group_size=7)
    source = open_source(SourceSpec(kind="parquet", path=str(tmp_path / "x.parquet"), test_fraction=0.0))
    pool = Pool(build_manifest(source, 16, 1), source, image_size=16, channels=1)
    ids = np.random.default_rng(1).permutation(40)
    np.testing.assert_array_equal(
        pool.read(ids)[..., 0], np.stack([pattern(seed, channels=1) for seed in ids])
    )
    np.testing.assert_array_equal(pool.labels(ids), np.where(ids % 4 == 0, -1, ids % 4))
