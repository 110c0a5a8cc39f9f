"""L, the labeled set of Step 7: read once by Ray Data, then shared by the training workers of a node.

Which samples a step is made of follows from the seed, the epoch and the sample ids (`EpochOrder`), for any
number of workers. Ray Data's own ways of dealing rows out to workers cannot keep that: `streaming_split`
drops rows to make equal shares, and a local shuffle gives workers different numbers of steps. So a worker
gets all rows, and takes its share of each global batch from them; but it neither reads nor holds them. The
images are decoded once for a training, by tasks that are over before the first worker starts (a task would
wait for a CPU that the workers keep). They end up in one object, that Ray copies once to each node and maps
into the memory of all workers there, those of a restart or of another number of workers as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray import ObjectRef
from ray.data import TaskPoolStrategy
from ray.exceptions import GetTimeoutError, ObjectLostError

from dm2at_ray.stages.context import StageContext
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.tensors import tensor_array, tensor_column
from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.validation import hold_out

TASK_ROWS = 1024
"""Images that one task reads."""

WAIT_SECONDS = 120.0
"""How long a worker waits for the shared set, before it reads one for itself.

Ray makes an object again that was lost with its node, but its tasks need a CPU that the workers may hold.
"""

logger = logging.getLogger(__name__)


def share_labeled_set(context: StageContext, settings: TrainSettings) -> ObjectRef:
    """Read L as of this round into the object store, and wait until it is there.

    Args:
        context: The round.
        settings: Which part is held out, and whether stored twins are trained on.

    Returns:
        Of a `LabeledSet`, whose arrays are read-only where they are taken out.

    Raises:
        ray.exceptions.RayTaskError: Of a `PoolError`: an image cannot be read any more.
    """
    ids, _ = _ids_and_labels(context, settings)
    # In order of their ids, which is that of the files they lie in.
    pieces = np.split(np.sort(ids), range(TASK_ROWS, len(ids), TASK_ROWS))
    tables = ray.data.from_arrow([pa.table({"sample_id": piece}) for piece in pieces])
    tables.set_name("labeled set")
    resources = {"num_cpus": context.compute.cpus_per_actor}
    images = tables.map_batches(
        _read_images,
        fn_kwargs={"context": context},
        batch_size=None,
        compute=TaskPoolStrategy(size=min(context.compute.actors, len(pieces))),
        **resources,
    )
    refs = [entry.ref for bundle in images.iter_internal_ref_bundles() for entry in bundle.blocks]
    rows, shared = _gather.options(**resources).remote(context, settings, refs)
    assert ray.get(rows) == len(ids)
    return shared


def take_labeled_set(shared: ObjectRef, context: StageContext, settings: TrainSettings) -> LabeledSet:
    """What `share_labeled_set` has read, in this worker: the same rows in the same order on all of them."""
    try:
        return ray.get(shared, timeout=WAIT_SECONDS)
    except (GetTimeoutError, ObjectLostError) as error:
        logger.warning("the shared labeled set is lost, this worker reads its own: %s", error)
        return read_labeled_set(context, settings)


def read_labeled_set(context: StageContext, settings: TrainSettings) -> LabeledSet:
    """L as of this round: every label asked for so far, its image, and the twin that was crafted with it."""
    ids, _ = _ids_and_labels(context, settings)
    return _assemble(context, settings, [(ids, context.pool().read(ids))])


def _ids_and_labels(context: StageContext, settings: TrainSettings) -> tuple[np.ndarray, np.ndarray]:
    """Sample ids (N,) and labels (N,) int64, those that a training holds out first.

    Both of its parts are runs of rows then, and need no copy.
    """
    known = RunDirectory(context.run_uri).labels(context.round_index + 1)
    known = known.filter(known["label"].is_valid())
    ids, labels = known["sample_id"].to_numpy(), known["label"].to_numpy()
    no_pixels = np.empty((len(ids), 1, 1, 0), np.uint8)
    trained_on, held_out = hold_out(LabeledSet(ids, no_pixels, labels), settings, context.seed)
    parts = [trained_on] if held_out is None else [held_out, trained_on]
    return np.concatenate([p.sample_ids for p in parts]), np.concatenate([p.labels for p in parts])


def _read_images(batch: dict[str, np.ndarray], context: StageContext) -> pa.Table:
    ids = batch["sample_id"]
    return pa.table({"sample_id": ids, "image": tensor_column(context.pool().read(ids))})


@ray.remote(num_returns=2, max_retries=-1)
def _gather(
    context: StageContext, settings: TrainSettings, blocks: list[ObjectRef]
) -> tuple[int, LabeledSet]:
    # One block at a time is in this process.
    tables = (ray.get(block) for block in blocks)
    parts = ((table["sample_id"].to_numpy(), tensor_array(table["image"])) for table in tables)
    labeled = _assemble(context, settings, parts)
    return len(labeled), labeled


def _assemble(
    context: StageContext, settings: TrainSettings, parts: Iterable[tuple[np.ndarray, np.ndarray]]
) -> LabeledSet:
    """Put images, which come as ids (n,) and pixels (n, H, W, C), into the rows of their samples."""
    ids, labels = _ids_and_labels(context, settings)
    order = np.argsort(ids)

    def rows_of(sample_ids: np.ndarray) -> np.ndarray:
        return order[np.searchsorted(ids, sample_ids, sorter=order)]

    assert context.source.image_size is not None
    assert context.source.channels is not None
    size = context.source.image_size
    images = np.empty((len(ids), size, size, context.source.channels), np.uint8)
    for sample_ids, pixels in parts:
        images[rows_of(sample_ids)] = pixels
    if settings.clean_weight == 1 or settings.adversaries == "fresh":
        return LabeledSet(ids, images, labels)
    twins, has_twin = np.zeros_like(images), np.zeros(len(ids), bool)
    run = RunDirectory(context.run_uri)
    for index in range(context.round_index + 1):
        crafted = run.round(index).adversarial()
        if crafted is not None:
            # Of some queries nobody could tell the label.
            labeled = np.isin(crafted["sample_id"].to_numpy(), ids)
            rows = rows_of(crafted["sample_id"].to_numpy()[labeled])
            twins[rows] = tensor_array(crafted["image"])[labeled]
            has_twin[rows] = True
    return LabeledSet(ids, images, labels, twins if has_twin.any() else None, has_twin)
