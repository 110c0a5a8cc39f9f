"""NumPy arrays as Arrow columns of fixed-shape tensors, and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def tensor_column(array: np.ndarray) -> pa.FixedShapeTensorArray:
    """An array (n, ...) as n tensors, always in row-major order.

    `FixedShapeTensorArray.from_numpy_ndarray` goes by the strides instead, and takes a dimension of length 1,
    whose stride means nothing, for a permutation.

    Examples:
        >>> tensor_column(np.zeros((2, 3, 1), np.uint8)).type.shape
        [3, 1]
    """
    shape = array.shape[1:]
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(values, int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(values.type, shape), storage)


def tensor_array(column: pa.ChunkedArray) -> np.ndarray:
    """A column of n fixed-shape tensors as an array (n, ...); without a copy where it is one chunk.

    Examples:
        >>> tensor_array(pa.chunked_array([tensor_column(np.eye(2))]))
        array([[1., 0.],
               [0., 1.]])
    """
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    return whole.storage.flatten().to_numpy().reshape(len(whole), *column.type.shape)
