"""`dm2at pool build` and `dm2at pool add`: pack sources into a pool directory, in parallel over Ray."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import ray

from dm2at_ray.errors import PoolError
from dm2at_ray.monitoring.progress import ProgressView
from dm2at_ray.pool.building import Building, begun_request, note_whole
from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.directory import CATALOG_FILE, PoolDirectory
from dm2at_ray.pool.location import Location
from dm2at_ray.pool.packing import CHANNELS, mean_bytes, pack
from dm2at_ray.pool.pieces import Piece, cut
from dm2at_ray.pool.sources import Source, SourceSpec, Split, open_source
from dm2at_ray.pool_listing import Listings
from dm2at_ray.pool_tasks import Stages, gather, ray_for_pools
from dm2at_ray.store import Lease
from dm2at_ray.store.files import Files
from dm2at_ray.store.lease import LEASE_FILE, Terms

TASK_RETRIES = 10
_OWN_NAMES = {CATALOG_FILE, LEASE_FILE, "build", "manifest", "shards"}


@dataclass(frozen=True)
class Request:
    """What is to be packed.

    Attributes:
        out: Path or URI of the pool directory.
        sources: What to pack, in this order; with absolute paths.
        split: Of the sources.
        image_size: What runs on the pool bring the images to where they do not say; None for what all
            sources know of theirs, if they agree.
        channels: Likewise; decoding is tried with them.
    """

    out: str
    sources: tuple[SourceSpec, ...]
    split: Split = "pool"
    image_size: int | None = None
    channels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """What tells it from another request, as plain values."""
        return {
            "sources": [_spec_json(spec) for spec in self.sources],
            "split": self.split,
            "image_size": self.image_size,
            "channels": self.channels,
        }


def build_pool(request: Request, view: ProgressView) -> Catalog:
    """Make a pool directory, or go on with one whose build was cut off; a finished one is left as it is.

    Args:
        request: What to pack.
        view: Where to show how far it is.

    Returns:
        What is in the pool.

    Raises:
        PoolError: Another pool is there, or something else; a source cannot be listed; another process packs
            into it; or a build with other arguments was begun.
    """
    directory = PoolDirectory.at(request.out, "OUT")
    _refuse_inside(directory, request)
    _refuse_others(directory)
    lease = packing_lease(directory)
    with lease.held(view.message):
        there = directory.find_catalog()
        if there is not None:
            if [_without_place(entry) for entry in there.additions] != [request.to_json()]:
                raise PoolError(
                    f"pool {directory.place.uri!r}: there is one already; add to it by `dm2at pool add`, or "
                    "give another OUT"
                )
            view.message(f"{directory.place.uri} is packed already")
            return there
        sources = [open_source(spec) for spec in request.sources]
        size, channels = _native_size(request, sources)
        base = Catalog(image_size=size, channels=channels)
        return _pack_all(directory, base, request, sources, view, lease)


def add_to_pool(request: Request, view: ProgressView) -> Catalog:
    """Append to a pool directory, or go on where an earlier call was cut off.

    Args:
        request: What to pack; the pool's own `image_size` and `channels` count.
        view: Where to show how far it is.

    Returns:
        What is in the pool.

    Raises:
        PoolError: There is no pool; or as `build_pool` does.
    """
    directory = PoolDirectory.at(request.out, "OUT")
    _refuse_inside(directory, request)
    directory.catalog()
    lease = packing_lease(directory)
    with lease.held(view.message):
        sources = [open_source(spec) for spec in request.sources]
        return _pack_all(directory, directory.catalog(), request, sources, view, lease)


def packing_lease(directory: PoolDirectory) -> Lease:
    """The right to pack into a pool directory, which one process has at a time."""
    terms = Terms(
        f"pool {directory.place.uri}", "process", "packs into it", "wait for it, or end it", PoolError
    )
    return Lease(Files(directory.place.filesystem, directory.place.path), uuid.uuid4().hex, terms=terms)


def united_names(own: tuple[str, ...] | None, sources: list[Source]) -> list[str] | None:
    """Names of the classes of a pool and of sources, each once, in the order in which they come."""
    lists = [names for names in (own, *(source.class_names for source in sources)) if names is not None]
    return list(dict.fromkeys(name for names in lists for name in names)) if lists else None


def _pack_all(
    directory: PoolDirectory,
    base: Catalog,
    request: Request,
    sources: list[Source],
    view: ProgressView,
    lease: Lease,
) -> Catalog:
    wanted = request.to_json()
    if request.split == "test":
        for source in sources:
            if not source.has_test_split:
                raise PoolError(
                    f"source {source.spec.path or source.kind!r}: it has no test images of its own"
                )
    listings = Listings(request.out, sources, request.split)
    building = Building.begin(directory, wanted, base)
    channels = base.channels or CHANNELS
    stages = Stages(view)
    pieces = 0

    def start() -> Iterator[tuple[int, ray.ObjectRef | None]]:
        nonlocal pieces
        first_id = base.size
        for number, source in enumerate(sources):
            for piece in _pieces(building, number, source, listings.entries(number), names):
                rows, ref = piece.entries.num_rows, None
                if not building.is_whole(pieces, piece):
                    shard = building.shard(pieces)
                    ref = _pack_piece.remote(
                        request.out, source.spec, piece, pieces, shard, first_id, channels
                    )
                pieces += 1
                first_id += rows
                yield rows, ref

    with ray_for_pools():
        listings.list_shards(stages, lease.check)
        names = united_names(base.class_names, sources)
        stages.begin("pack")
        with closing(gather(start(), stages)) as packed:
            for _ in packed:
                lease.check()
        stages.end()
        stages.begin("manifest")
        lease.check()
        catalog = building.finish(pieces, names, wanted)
        stages.end()
    return catalog


def _pieces(
    building: Building, number: int, source: Source, entries: Iterator[pa.Table], names: list[str] | None
) -> Iterator[Piece]:
    """The source's entries cut into pieces, their labels as places in `names`."""

    def mean(window: int, entries: pa.Table) -> float:
        known = building.mean_bytes(number, window)
        if known is None:
            known = ray.get(_mean_bytes.remote(source.spec, entries))
            building.note_mean_bytes(number, window, known)
        return known

    numbers = {name: number for number, name in enumerate(names or ())}
    places = pa.array([numbers[name] for name in source.class_names or ()], pa.int64())
    for piece in cut(entries, mean):
        column = piece.entries.schema.get_field_index("label")
        field, labels = piece.entries.schema.field(column), piece.entries["label"].combine_chunks()
        yield replace(piece, entries=piece.entries.set_column(column, field, places.take(labels)))


# Without a CPU of its own, because it would wait behind the packing that waits for it.
@ray.remote(num_cpus=0, max_retries=TASK_RETRIES)
def _mean_bytes(spec: SourceSpec, entries: pa.Table) -> float:
    return mean_bytes(open_source(spec), entries)


@ray.remote(max_retries=TASK_RETRIES)
def _pack_piece(
    out: str, spec: SourceSpec, piece: Piece, index: int, shard: int, first_id: int, channels: int
) -> None:
    directory = PoolDirectory.at(out)
    with directory.shard_writer(shard) as writer:
        rows = pack(open_source(spec), piece.entries, first_id, shard, writer, channels, piece.mean_bytes)
    note_whole(directory, index, piece, rows)


def _native_size(request: Request, sources: list[Source]) -> tuple[int | None, int | None]:
    sizes = {source.native_size() for source in sources}
    native = sizes.pop() if len(sizes) == 1 else None
    size, channels = native or (None, None)
    return request.image_size or size, request.channels or channels


def _spec_json(spec: SourceSpec) -> dict[str, Any]:
    """The fields of a spec that say what is packed, where they are not left as they are."""
    plain = asdict(replace(spec, image_size=None, channels=None, test_path=None))
    if spec.path is not None and "://" in spec.path:
        # Without a URI's options, which may hold keys: it is kept in the pool.
        plain["path"] = Location.of(spec.path, "source").uri
    default = asdict(SourceSpec(kind=spec.kind))
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in plain.items()
        if name in ("kind", "path") or value != default[name]
    }


def _without_place(addition: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in addition.items() if name not in ("first_id", "size")}


def _refuse_inside(directory: PoolDirectory, request: Request) -> None:
    """A source must not find the pool's own files while it is listed."""
    out = directory.place.uri.rstrip("/") + "/"
    for spec in request.sources:
        if spec.path is not None:
            source = Location.of(spec.path, "source").uri.rstrip("/") + "/"
            if out.startswith(source) or source.startswith(out):
                raise PoolError(
                    f"OUT {directory.place.uri!r}: in or above the source {source!r}; give another place"
                )


def _refuse_others(directory: PoolDirectory) -> None:
    """Nothing is written among files that are not a pool's."""
    try:
        names = {name for name in directory.names("") if not name.startswith(".")}
    except OSError:
        return  # Not a folder, or one that cannot be listed: writing says more.
    if not names <= _OWN_NAMES or (
        names - {LEASE_FILE} and not directory.exists(CATALOG_FILE) and begun_request(directory) is None
    ):
        raise PoolError(
            f"OUT {directory.place.uri!r}: holds other files; give an empty place, or one that is not there"
        )
