"""Image columns as Arrow has them: encoded bytes, or uint8 pixels as tensors or lists."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from dm2at_ray.pool.decode import Raw, UnreadableImage


def holds_bytes(image_type: pa.DataType) -> bool:
    """Whether a column holds encoded images: binary, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(image_type):
        index = image_type.get_field_index("bytes")
        return index >= 0 and holds_bytes(image_type.field(index).type)
    return pa.types.is_binary(image_type) or pa.types.is_large_binary(image_type)


def holds_pixels(image_type: pa.DataType) -> bool:
    """Whether a column holds uint8 pixels: a fixed-shape tensor or (nested) lists."""
    value_type = image_type
    if isinstance(value_type, pa.BaseExtensionType):
        value_type = value_type.storage_type
    depth = 0
    while _is_list(value_type):
        value_type = value_type.value_type
        depth += 1
    return depth > 0 and value_type == pa.uint8()


def pixel_shape(image_type: pa.DataType) -> tuple[int, int, int] | None:
    """(height, width, channels) of every image of a column, where its type fixes them.

    A tensor of two dimensions is gray. Three dimensions are (H, W, C), or (C, H, W) where only the first can
    be channels. A flat list of s*s or 3*s*s values is a square image, gray or RGB (H, W, C).
    """
    shape: tuple[int, ...] = ()
    if isinstance(image_type, pa.BaseExtensionType) and hasattr(image_type, "shape"):
        shape = tuple(_logical(np.empty(tuple(image_type.shape), np.uint8), image_type).shape)
    else:
        value_type = image_type
        while pa.types.is_fixed_size_list(value_type):
            shape += (value_type.list_size,)
            value_type = value_type.value_type
        if _is_list(value_type):
            return None
    return _image_shape(shape)


def raw_image(value: pa.Scalar) -> Raw:
    """One image of a column: its encoded bytes, or uint8 pixels (H, W, C)."""
    if isinstance(value, pa.StructScalar):
        value = value["bytes"] if value.is_valid else value
    if not value.is_valid:
        return UnreadableImage("no image in this row")
    if holds_bytes(value.type):
        return value.as_py()
    values, shape = value, list(getattr(value.type, "shape", ()))
    if isinstance(value.type, pa.BaseExtensionType):
        values = value.value
    nested = values.values
    dimensions = [len(nested)]
    while _is_list(nested.type):
        nested = nested.flatten()
        dimensions.append(len(nested) // max(1, math.prod(dimensions)))
    flat = nested.to_numpy(zero_copy_only=False)
    if flat.dtype != np.uint8 or math.prod(shape or dimensions) != flat.size:
        return UnreadableImage("pixels are missing")
    pixels = _logical(flat.reshape(shape or dimensions), value.type)
    image_shape = _image_shape(pixels.shape)
    if image_shape is None:
        return UnreadableImage(f"pixels of shape {pixels.shape} are no image")
    if pixels.ndim == 3 and pixels.shape != image_shape:
        return pixels.transpose(1, 2, 0)
    return pixels.reshape(image_shape)


def _is_list(value_type: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_fixed_size_list(value_type) or types.is_list(value_type) or types.is_large_list(value_type)
    )


def _logical(physical: np.ndarray, tensor_type: pa.DataType) -> np.ndarray:
    permutation = getattr(tensor_type, "permutation", None)
    return physical if permutation is None else physical.transpose(permutation)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    if len(shape) == 1:
        for channels in (1, 3):
            side = math.isqrt(shape[0] // channels)
            if side > 0 and side * side * channels == shape[0]:
                return side, side, channels
        return None
    if len(shape) == 2:
        return shape[0], shape[1], 1
    if len(shape) == 3:
        channels_first = shape[0] in (1, 3) and shape[2] not in (1, 2, 3, 4)
        return (shape[1], shape[2], shape[0]) if channels_first else (shape[0], shape[1], shape[2])
    return None
