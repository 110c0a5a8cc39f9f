"""`dm2at pool check`: read every image of a pool or of any source, in parallel over Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray

from dm2at_ray.errors import PoolError
from dm2at_ray.monitoring.progress import ProgressView
from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.checking import BROKEN_SCHEMA, check_entries, check_shard
from dm2at_ray.pool.directory import PoolDirectory, part_file
from dm2at_ray.pool.location import is_store_error
from dm2at_ray.pool.packing import CHANNELS
from dm2at_ray.pool.sources import SourceSpec, open_source
from dm2at_ray.pool_tasks import Stages, gather, ray_for_pools

SLICE_ROWS = 4096
TASK_RETRIES = 10


@dataclass(frozen=True)
class Findings:
    """What a check has found.

    Attributes:
        images: Images looked at, those set aside when they were packed included.
        set_aside: Those of them, which have no image to look at.
        broken: What is wrong: sample_id (None for a file of the manifest), uri, row and reason; by id.
    """

    images: int
    set_aside: int
    broken: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_pool(spec: SourceSpec, view: ProgressView) -> Findings:
    """Read everything: a packed pool against its manifest, any other source for whether it decodes.

    Args:
        spec: What to read.
        view: Where to show how far it is.

    Raises:
        PoolError: It cannot be listed, or its store cannot be used.
    """
    stages = Stages(view)
    packed = None
    if spec.kind == "pool":
        packed = PoolDirectory.at(spec.path or "").catalog()
    tasks = _shard_tasks(spec, packed) if packed is not None else _entry_tasks(spec)
    found: list[pa.Table] = [BROKEN_SCHEMA.empty_table()]
    images = 0

    def counted() -> Iterator[tuple[int, ray.ObjectRef | None]]:
        nonlocal images
        for rows, ref in tasks:
            images += rows
            yield rows, ref

    with ray_for_pools():
        stages.begin("check")
        with closing(gather(counted(), stages)) as results:
            found.extend(results)
        stages.end()
    broken = pa.concat_tables(found).sort_by("sample_id").to_pylist()
    return Findings(images, sum(part.rejected for part in packed.parts) if packed else 0, broken)


def _shard_tasks(spec: SourceSpec, catalog: Catalog) -> Iterator[tuple[int, ray.ObjectRef | None]]:
    shared = ray.put(catalog)
    for index, shard in enumerate(catalog.shards):
        yield shard.ids, _check_shard.remote(spec.path, shared, index)


def _entry_tasks(spec: SourceSpec) -> Iterator[tuple[int, ray.ObjectRef | None]]:
    source = open_source(spec)
    _, channels = source.native_size() or (None, CHANNELS)
    first_id = 0
    for table in source.entries("pool"):
        for begin in range(0, table.num_rows, SLICE_ROWS):
            entries = table.slice(begin, SLICE_ROWS)
            yield entries.num_rows, _check_entries.remote(spec, entries, first_id, channels)
            first_id += entries.num_rows
    if first_id == 0:
        raise PoolError(f"source {spec.path!r}: lists no images; give a place that holds some")


@ray.remote(max_retries=TASK_RETRIES)
def _check_shard(path: str, catalog: Catalog, index: int) -> pa.Table:
    directory = PoolDirectory.at(path)
    try:
        return check_shard(directory, catalog, index, catalog.channels or CHANNELS)
    except PoolError as error:
        if is_store_error(error.__cause__):
            raise
        # Without its rows of the manifest nothing can be said of the images one by one.
        part = catalog.part_of(catalog.shards[index].first_id)
        broken = {"sample_id": None, "uri": part_file(part), "row": None, "reason": str(error)}
        return pa.Table.from_pylist([broken], schema=BROKEN_SCHEMA)


@ray.remote(max_retries=TASK_RETRIES)
def _check_entries(spec: SourceSpec, entries: pa.Table, first_id: int, channels: int) -> pa.Table:
    return check_entries(open_source(spec), entries, first_id, channels)
