from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.store.files import Files
from dm2at_ray.store.tensors import tensor_array, tensor_column


@pytest.mark.parametrize("shape", [(3, 4, 5, 3), (3, 4, 5, 1), (3, 1, 1, 1), (1, 2), (3, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_tensor_column__round_trip(shape: tuple[int, ...], dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    column = tensor_column(array)
    assert column.type.shape == list(shape[1:])
    back = tensor_array(pa.chunked_array([column]))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


def test_tensor_column__strides_do_not_matter() -> None:
    channels_first = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    seen_last = channels_first.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(tensor_array(pa.chunked_array([tensor_column(seen_last)])), seen_last)


def test_tensor_array__chunks_and_slices() -> None:
    array = np.arange(5 * 2 * 2, dtype=np.uint8).reshape(5, 2, 2)
    chunked = pa.chunked_array([tensor_column(array[:2]), tensor_column(array[2:])])
    np.testing.assert_array_equal(tensor_array(chunked), array)
    np.testing.assert_array_equal(tensor_array(chunked.slice(1, 3)), array[1:4])
    np.testing.assert_array_equal(tensor_array(chunked.take([4, 0])), array[[4, 0]])


def test_tensor_column__through_parquet(tmp_path: object) -> None:
    files = Files.at(str(tmp_path))
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 1), np.uint8)
    files.write_table("images.parquet", pa.table({"image": tensor_column(images)}))
    np.testing.assert_array_equal(tensor_array(files.read_table("images.parquet")["image"]), images)
