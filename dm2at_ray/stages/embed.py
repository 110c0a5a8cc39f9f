"""Step 1 of Algorithm 2: the features h(x) of all unlabeled images, by Ray Data over an actor pool."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import ObjectRef

from dm2at_ray.stages.batches import IdRange, aligned_batches, pad_rows, unlabeled_count, unlabeled_ids
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.fan_out import finished, map_pieces
from dm2at_ray.stages.images import to_device
from dm2at_ray.store.tensors import tensor_array, tensor_column


@dataclass(frozen=True)
class FeatureBlocks:
    """Features of the unlabeled pool, where the actors left them in the object store.

    Attributes:
        blocks: Ranges of sample ids, ascending.
        refs: For each block its table: sample_id int64, features float16 (D,) as a fixed-shape tensor.
        rows: Unlabeled images in all.
        dim: D, features of one image.
    """

    blocks: tuple[IdRange, ...]
    refs: tuple[ObjectRef, ...]
    rows: int
    dim: int

    def of(self, block: IdRange) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int64 and features (n, D) float16 of one block, fetched here."""
        return features_of(ray.get(self.refs[self.blocks.index(block)]), block)

    def gather(self, sample_ids: np.ndarray) -> np.ndarray:
        """Features (..., D) float16 of unlabeled samples (...) int64, one block in memory at a time."""
        gathered = np.empty((*sample_ids.shape, self.dim), np.float16)
        for block in self.blocks:
            inside = (sample_ids >= block.begin) & (sample_ids < block.end)
            if inside.any():
                ids, features = self.of(block)
                gathered[inside] = features[np.searchsorted(ids, sample_ids[inside])]
        return gathered


def embed(
    context: StageContext, blocks: list[IdRange], excluded: np.ndarray, progress: Progress
) -> FeatureBlocks:
    """Compute h(x) for every x in U.

    Args:
        context: The round.
        blocks: U, cut by `unlabeled_blocks`.
        excluded: Sorted ids (n,) int64 that are labeled or set aside.
        progress: Told of every block.

    Returns:
        References only: the features themselves never come to the driver.
    """
    total = sum(unlabeled_count(block, excluded) for block in blocks)
    pieces = pa.table({"begin": [b.begin for b in blocks], "end": [b.end for b in blocks]})
    dataset = map_pieces(pieces, Embedder, context, ray.put(excluded), on_actors=True, name="embed")
    # The references are matched with their blocks by position; each task that takes one checks its ids.
    dataset.context.execution_options.preserve_order = True
    refs: list[ObjectRef] = []
    done = dim = 0
    for piece in finished(dataset):
        dim = piece.schema.field("features").type.shape[0]
        refs.append(piece.ref)
        done += piece.rows
        progress(done, total, piece.node)
    assert len(refs) == len(blocks), f"{len(refs)} tables for {len(blocks)} blocks"
    assert done == total, f"{done} features for {total} images"
    return FeatureBlocks(tuple(blocks), tuple(refs), done, dim)


class Embedder:
    """Embeds one block at a time, at one fixed batch size."""

    def __init__(self, context: StageContext, excluded: ObjectRef) -> None:
        # Ray Data ends its actors after the stage. One was seen to hang then in its C++ destructors, when
        # Ray had let go of it already, and it would have stayed for ever: leave without them.
        atexit.register(os._exit, 0)
        self._context = context
        self._excluded = ray.get(excluded)
        context.begin_piece()
        self._model = context.current_model()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take a block's range of ids to its features."""
        block = IdRange(int(batch["begin"][0]), int(batch["end"][0]))
        ids = unlabeled_ids(block, self._excluded)
        features = np.empty((len(ids), self._model.feature_dim), np.float16)
        pool, size = self._context.pool(), self._context.batch_size
        for rows in aligned_batches(ids, size):
            images = to_device(pad_rows(pool.read(ids[rows]), size), self._context.device)
            h = self._model.features(images)[: rows.stop - rows.start]
            features[rows] = h.half().cpu().numpy()
        return pa.table(
            {
                "sample_id": ids,
                "features": tensor_column(features),
            }
        )


def features_of(table: pa.Table, block: IdRange) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) int64 and features (n, D) float16 of one block's table, without a copy where Arrow allows."""
    ids = table["sample_id"].to_numpy()
    is_of_block = block.begin <= ids[0] and ids[-1] < block.end
    assert is_of_block, f"ids {ids[0]} to {ids[-1]} are not of {block}"
    return ids, tensor_array(table["features"])
