"""The labeled samples that are nearest to each query, to show to those who label it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import ObjectRef

from dm2at_ray.algorithm.distance import pairwise_distance
from dm2at_ray.config_sections import NeighborsConfig
from dm2at_ray.neighbors.normalizer import Normalizer
from dm2at_ray.stages.batches import pad_rows
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.fan_out import finished, map_pieces
from dm2at_ray.stages.images import to_device
from dm2at_ray.store.tensors import tensor_array, tensor_column

SHOWN = 5
"""Labeled samples that are shown beside a query."""

BATCHES_PER_PIECE = 16


def find_labeled_neighbors(
    context: StageContext, config: NeighborsConfig, query_ids: np.ndarray, labeled_ids: np.ndarray
) -> pa.Table:
    """Find the nearest labeled samples of each query under D, by the features of the model that chose it.

    Args:
        context: The round.
        config: Of D.
        query_ids: Ids (B,) int64.
        labeled_ids: Ids (n,) int64, ascending.

    Returns:
        `LABELED_NEIGHBORS_SCHEMA`, in the order of the queries; equal distances by ascending id.
    """
    rows = BATCHES_PER_PIECE * context.batch_size
    pieces = [
        ids[begin : begin + rows] for ids in (query_ids, labeled_ids) for begin in range(0, len(ids), rows)
    ]
    work = pa.table({"ids": pa.array([piece.tolist() for piece in pieces], pa.list_(pa.int64()))})
    dataset = map_pieces(work, Features, context, on_actors=False, name="labeled neighbours")
    dataset.context.execution_options.preserve_order = True
    refs = [piece.ref for piece in finished(dataset)]
    queries = -(-len(query_ids) // rows)
    nearest = _nearest.options(num_cpus=context.compute.cpus_per_actor)
    return ray.get(nearest.remote(config, refs[:queries], refs[queries:]))


class Features:
    """Embeds samples by their ids."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        context.begin_piece()
        self._model = context.current_model()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take a list of ids to their features."""
        (ids,) = (np.asarray(each, np.int64) for each in batch["ids"])
        pool, size = self._context.pool(), self._context.batch_size
        features = np.empty((len(ids), self._model.feature_dim), np.float32)
        for begin in range(0, len(ids), size):
            part = ids[begin : begin + size]
            images = to_device(pad_rows(pool.read(part), size), self._context.device)
            features[begin : begin + size] = self._model.features(images)[: len(part)].float().cpu().numpy()
        return pa.table({"sample_id": ids, "features": tensor_column(features)})


@ray.remote(max_retries=-1)
def _nearest(config: NeighborsConfig, queries: list[ObjectRef], labeled: list[ObjectRef]) -> pa.Table:
    # One piece of the labeled set at a time is in this process.
    asked = [ray.get(ref) for ref in queries]
    x = torch.cat([_features(table) for table in asked])
    first = _features(ray.get(labeled[0]))
    # For people's eyes the first labeled samples say enough of the scales.
    normalizer = Normalizer.fit(config.normalize, first)
    x = normalizer(x)
    ids, distances = torch.empty((len(x), 0), dtype=torch.int64), torch.empty((len(x), 0))
    for ref in labeled:
        table = ray.get(ref)
        d = pairwise_distance(x, normalizer(_features(table)), config.l1_weight, config.l2_weight)
        ids = torch.cat([ids, torch.tensor(table["sample_id"].to_numpy()).expand(len(x), -1)], dim=1)
        distances, order = torch.cat([distances, d], dim=1).sort(dim=1, stable=True)
        ids, distances = ids.gather(1, order)[:, :SHOWN], distances[:, :SHOWN]
    return pa.table(
        {
            "sample_id": pa.concat_arrays([table["sample_id"].combine_chunks() for table in asked]),
            "labeled_neighbor_ids": ids.tolist(),
            "labeled_neighbor_distances": pa.array(distances.tolist(), pa.list_(pa.float32())),
        }
    )


def _features(table: pa.Table) -> torch.Tensor:
    return torch.tensor(tensor_array(table["features"]))
