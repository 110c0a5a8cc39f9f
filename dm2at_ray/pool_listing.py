"""The listings of an addition's sources: their shards are listed by Ray tasks, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pyarrow as pa
import ray

from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.listing import ListedShard, Listing
from dm2at_ray.pool.sources import Source, SourceSpec, Split, open_source
from dm2at_ray.pool.sources.shards import Shard, ShardedSource
from dm2at_ray.pool_tasks import Stages, gather

TASK_RETRIES = 10


class Listings:
    """The entries of several sources.

    Args:
        out: Path or URI of the pool directory, which keeps what is listed until the addition is done.
        sources: What to list.
        split: Of the sources.

    Raises:
        PoolError: The shards of a source cannot be told.
    """

    def __init__(self, out: str, sources: Sequence[Source], split: Split) -> None:
        self._out = out
        self._sources = sources
        self._split = split
        self._shards: dict[int, list[Shard]] = {
            number: source.shards(split)
            for number, source in enumerate(sources)
            # With test images goes a pool, whose classes they take: that would have to be listed, too.
            if isinstance(source, ShardedSource) and split == "pool"
        }

    def list_shards(self, stages: Stages, check: Callable[[], None]) -> None:
        """List the shards of all sources that have some, by as many tasks as there are CPUs.

        Afterwards these sources know their classes. An earlier call's files are taken as they are.

        Args:
            stages: Told how many images are listed.
            check: Called after each shard; ends the listing by what it raises.

        Raises:
            PoolError: A shard cannot be read, or its labels.
        """
        if not self._shards:
            return
        found: dict[tuple[int, int], ListedShard] = {}
        stages.begin("list")
        with closing(gather(self._started(), stages, count=lambda each: each[2].images)) as results:
            for number, index, listed in results:
                check()
                found[number, index] = listed
        for number, shards in self._shards.items():
            labels = ((shard.path, found[number, index].labels) for index, shard in enumerate(shards))
            self._sharded(number).learn_classes(labels)
        stages.end()

    def entries(self, number: int) -> Iterator[pa.Table]:
        """The entries of a source, as `Source.entries` gives them; a table is in memory at a time."""
        if number not in self._shards:
            yield from self._sources[number].entries(self._split)
            return
        source, listing = self._sharded(number), Listing(PoolDirectory.at(self._out), number)
        for index, shard in enumerate(self._shards[number]):
            for table in listing.tables(index):
                yield source.numbered(self._split, shard.path, table)

    def _started(self) -> Iterator[tuple[int, ray.ObjectRef]]:
        for number, shards in self._shards.items():
            spec = self._sources[number].spec
            for index, shard in enumerate(shards):
                yield 0, _list_shard.remote(self._out, spec, self._split, number, index, shard)

    def _sharded(self, number: int) -> ShardedSource:
        source = self._sources[number]
        assert isinstance(source, ShardedSource)
        return source


@ray.remote(max_retries=TASK_RETRIES)
def _list_shard(
    out: str, spec: SourceSpec, split: Split, number: int, index: int, shard: Shard
) -> tuple[int, int, ListedShard]:
    source = open_source(spec)
    assert isinstance(source, ShardedSource)
    listing = Listing(PoolDirectory.at(out), number)
    return number, index, listing.list_shard(source, split, index, shard)
