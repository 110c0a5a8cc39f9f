"""Packing without Ray, piece by piece, as `dm2at pool build` does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dm2at_ray.pool import Source, SourceSpec, open_source
from dm2at_ray.pool.building import Building, note_whole
from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.packing import mean_bytes, pack
from dm2at_ray.pool.pieces import cut


def picture(path: Path, seed: int, size: int = 8) -> Path:
    """A file of noise: uint8 (size, size, 3) as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def pack_source(
    directory: PoolDirectory,
    source: Source,
    names: Sequence[str] | None = None,
    shard_bytes: int = 1 << 20,
    stop_before: int | None = None,
) -> Catalog | None:
    """Pack a source into a pool directory; `stop_before` a piece is where it is cut off, as if killed."""
    base = directory.find_catalog() or Catalog()
    building = Building.begin(directory, {"sources": [source.spec.path]}, base)
    pieces, first_id = 0, base.size
    for piece in cut(source.entries("pool"), lambda _, window: mean_bytes(source, window), shard_bytes):
        if pieces == stop_before:
            return None
        if not building.is_whole(pieces, piece):
            shard = building.shard(pieces)
            with directory.shard_writer(shard) as writer:
                rows = pack(source, piece.entries, first_id, shard, writer, 3, piece.mean_bytes)
            note_whole(directory, pieces, piece, rows)
        pieces += 1
        first_id += piece.entries.num_rows
    return building.finish(pieces, names or source.class_names, {"sources": [source.spec.path]})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four images each; of those in `b` one is a twin of one in `a`, and one is a text."""
    place = tmp_path / "images"
    for index in range(4):
        picture(place / "a" / f"{index}.png", seed=index)
        picture(place / "b" / f"{index}.png", seed=10 + index)
    (place / "b" / "1.png").write_bytes((place / "a" / "2.png").read_bytes())
    (place / "b" / "2.png").write_text("no picture")
    return place


@pytest.fixture
def source(folder: Path) -> Source:
    return open_source(SourceSpec(kind="image_folder", path=str(folder)))


@pytest.fixture
def directory(tmp_path: Path) -> PoolDirectory:
    return PoolDirectory.at(str(tmp_path / "pool"))
