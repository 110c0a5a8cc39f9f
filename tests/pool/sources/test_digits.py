from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_digits

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import SourceSpec, open_source

DIGITS = load_digits()


def test_digits__pool_and_test_are_scikit_learns_digits_split_in_two() -> None:
    source = open_source(SourceSpec(kind="digits", test_fraction=0.2, seed=3))
    pool, test = (pa.concat_tables(source.tables(split)) for split in ("pool", "test"))
    both = pa.concat_tables([pool, test]).sort_by("row")
    assert both.column("row").to_pylist() == list(range(1_797))
    assert both.column("label").to_pylist() == DIGITS.target.tolist()
    assert 0.17 < test.num_rows / 1_797 < 0.23


def test_digits__pixels_are_scaled_from_16_to_255() -> None:
    source = open_source(SourceSpec(kind="digits"))
    images = source.read(["sklearn:digits"] * 3, [1_000, 0, 1_796])
    for image, row in zip(images, [1_000, 0, 1_796], strict=True):
        expected = [[round(value * 255 / 16) for value in line] for line in DIGITS.images[row].tolist()]
        np.testing.assert_array_equal(image, expected)
        assert image.dtype == np.uint8
    assert source.native_size() == (8, 1)
    assert source.class_names == list("0123456789")


def test_digits__a_test_path_would_be_without_effect() -> None:
    with pytest.raises(PoolError, match=r"data\.test_path '/elsewhere'.*remove it"):
        open_source(SourceSpec(kind="digits", test_path="/elsewhere"))
