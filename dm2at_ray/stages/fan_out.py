"""Pieces of work over Ray Data: on an actor pool, or on tasks where starting actors would cost more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray import ObjectRef
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy
from ray.data.block import BlockAccessor

from dm2at_ray.stages.context import StageContext


class Worker(Protocol):
    """Does one piece of work at a time."""

    def __init__(self, context: StageContext, *args: Any) -> None: ...

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take a piece (one row of the work list, as arrays of length 1) to a table."""
        ...


def map_pieces(
    pieces: pa.Table, worker: type[Worker], context: StageContext, *args: Any, on_actors: bool, name: str
) -> Dataset:
    """Plan `worker` over the rows of a work list.

    The work list is handed over as blocks that exist already: a read task would wait for a CPU that the
    actors hold. A CPU task finds its imports and its model where an earlier task of the same process left
    them, while an actor starts a process (several seconds for the imports alone); a GPU task never does,
    because Ray ends its process after it.

    Args:
        pieces: The work list, one row a piece.
        worker: Class of the workers.
        context: First argument of each.
        *args: Further arguments of each; what is large as an object reference.
        on_actors: Whether actors are wanted on CPUs too.
        name: Of the stage, for Ray's logs.

    Returns:
        The lazy dataset; one block a piece, in no particular order.
    """
    compute = context.compute
    resources: dict[str, Any] = {"num_cpus": compute.cpus_per_actor}
    if compute.gpus_per_actor:
        resources["num_gpus"] = compute.gpus_per_actor
    blocks = ray.data.from_arrow([pieces.slice(row, 1) for row in range(pieces.num_rows)])
    blocks.set_name(name)
    size = min(compute.actors, pieces.num_rows)
    if on_actors or compute.gpus_per_actor:
        return blocks.map_batches(
            worker,
            fn_constructor_args=(context, *args),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
            **resources,
        )
    task = partial(_on_task, worker=worker, context=context, args=args)
    return blocks.map_batches(task, batch_size=1, compute=TaskPoolStrategy(size=size), **resources)


@dataclass(frozen=True)
class Done:
    """A piece that is done: its table, how many rows and which columns it has, and the node that made it."""

    ref: ObjectRef
    rows: int
    schema: pa.Schema
    node: str | None


def finished(dataset: Dataset) -> Iterator[Done]:
    """Run a dataset and yield each piece as it is done."""
    addresses: dict[str, str] = {}
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            facts = entry.metadata
            node = facts.exec_stats.node_id if facts.exec_stats is not None else ""
            if node and node not in addresses:
                addresses |= {each["NodeID"]: each["NodeManagerAddress"] for each in ray.nodes()}
            yield Done(entry.ref, facts.num_rows, bundle.schema, addresses.get(node))


def results(dataset: Dataset) -> Iterator[tuple[pa.Table, str | None]]:
    """Run a dataset and yield each piece's table as it is done, with the address of its node."""
    for piece in finished(dataset):
        yield BlockAccessor.for_block(ray.get(piece.ref)).to_arrow(), piece.node


def _on_task(batch: dict[str, np.ndarray], *, worker: type, context: StageContext, args: tuple) -> pa.Table:
    # Made anew for each piece: what is dear to open, the context keeps for the process.
    return worker(context, *args)(batch)
