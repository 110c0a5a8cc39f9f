"""Step 5 of Algorithm 2: the FGSM twins of the queries, away from the predicted label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import ObjectRef

from dm2at_ray.algorithm.attacks import fgsm, predicted_labels
from dm2at_ray.stages.batches import pad_rows
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.fan_out import map_pieces, results
from dm2at_ray.stages.images import to_device, to_pixels
from dm2at_ray.store.tensors import tensor_column


def craft_parts(queries: int, batch_size: int) -> int:
    """Files that the twins of so many queries lie in: one for each batch."""
    return -(-queries // batch_size)


def craft(context: StageContext, query_ids: np.ndarray, epsilon: float, progress: Progress) -> None:
    """Make x_adv = clip(x + epsilon sign grad l(f(x), argmax f(x)), 0, 1) of each query; store it as uint8.

    Args:
        context: The round; the model is that of the round before, in eval mode.
        query_ids: Sample ids (B,) int64.
        epsilon: Radius, pixels in [0, 1]; a stored twin is exact when it is a multiple of 1/255.
        progress: Told of every batch.
    """
    query_ids = np.sort(query_ids)
    parts = craft_parts(len(query_ids), context.batch_size)
    pieces = pa.table({"part": range(parts)})
    dataset = map_pieces(pieces, Crafter, context, ray.put(query_ids), epsilon, on_actors=False, name="craft")
    done = 0
    for part, node in results(dataset):
        done += part["crafted"][0].as_py()
        progress(done, len(query_ids), node)


class Crafter:
    """Crafts one batch of twins and writes it to the round's folder."""

    def __init__(self, context: StageContext, query_ids: ObjectRef, epsilon: float) -> None:
        context.begin_piece()
        self._context = context
        self._query_ids = query_ids
        self._epsilon = epsilon

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take a part's number to how many twins it has."""
        part, size = int(batch["part"][0]), self._context.batch_size
        ids = ray.get(self._query_ids)[part * size : (part + 1) * size]
        model = self._context.current_model()
        x = to_device(pad_rows(self._context.pool().read(ids), size), self._context.device)
        with torch.no_grad():
            y = predicted_labels(model, x)
        twins = to_pixels(fgsm(model, x, y, self._epsilon))[: len(ids)]
        columns = {
            "sample_id": ids,
            "predicted_label": y[: len(ids)].cpu().numpy(),
            "image": tensor_column(twins),
        }
        self._context.round.write_adversarial(part, pa.table(columns))
        return pa.table({"crafted": [len(ids)]})
