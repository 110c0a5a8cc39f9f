"""Sources of images: a new one is a file here and a line in ``SOURCES``."""

from __future__ import annotations

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.sources.base import ROWS_PER_TABLE, Source, SourceSpec, Split
from dm2at_ray.pool.sources.digits import Digits
from dm2at_ray.pool.sources.fashion_mnist import FashionMnist
from dm2at_ray.pool.sources.image_folder import ImageFolder
from dm2at_ray.pool.sources.image_list import ImageList
from dm2at_ray.pool.sources.parquet import Parquet
from dm2at_ray.pool.sources.pool import PackedPool
from dm2at_ray.pool.sources.tar import Tar
from dm2at_ray.pool.sources.torchvision_sets import TorchvisionSet

__all__ = ["ROWS_PER_TABLE", "SOURCES", "Source", "SourceSpec", "Split", "open_source"]

SOURCES: dict[str, type[Source]] = {
    source.kind: source
    for source in (Digits, FashionMnist, ImageFolder, ImageList, Parquet, PackedPool, Tar, TorchvisionSet)
}


def open_source(spec: SourceSpec) -> Source:
    """The source that ``spec`` describes; nothing is read yet.

    Raises:
        PoolError: ``spec.kind`` is unknown, or a path is missing or without effect.

    Examples:
        >>> source = open_source(SourceSpec(kind="digits", test_fraction=0.2))
        >>> [sum(table.num_rows for table in source.tables(split)) for split in ("pool", "test")]
        [1453, 344]
    """
    if spec.kind not in SOURCES:
        raise PoolError(f"data.source {spec.kind!r}: no such source; choose one of {', '.join(SOURCES)}")
    return SOURCES[spec.kind](spec)
