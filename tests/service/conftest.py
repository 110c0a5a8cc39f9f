from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dm2at_ray.config import Config
from dm2at_ray.pool import check_part, open_source, part_name
from dm2at_ray.service.pictures import Pictures
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RunDirectory

SIZE = 8


def encode(image: np.ndarray | Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def refused(kind: str) -> Any:
    """Expects a problem of this kind."""
    return pytest.raises(ProblemError, check=lambda error: error.kind == kind)


def make_run(
    uri: str, data: dict[str, Any], asked: list[int], near: dict[int, list[int]] | None = None
) -> RunDirectory:
    """A run on a source whose round 0 asks for samples, beside neighbours, as a driver leaves it."""
    run = RunDirectory(uri)
    # None of a folder's few images is held out by so small a share.
    held_out = {"test_fraction": 1e-6}
    config = Config.from_mapping({"data": {"image_size": SIZE, "channels": 3, **held_out, **data}})
    run.write_config(config)
    source = open_source(source_spec(config))
    (table,) = source.tables("pool")
    run.manifest_files("pool").write_table(part_name(0), check_part(source, table, 0, SIZE, 3))
    ask(run, 0, asked, near or {})
    return run


def ask(run: RunDirectory, index: int, asked: list[int], near: dict[int, list[int]]) -> None:
    count = len(asked)
    round_ = run.round(index)
    round_.write_queries(
        pa.table(
            {
                "sample_id": asked,
                "rank": range(count),
                "score": pa.array([1.0] * count, pa.float32()),
                "predicted_label": pa.nulls(count, pa.int64()),
                "neighbor_ids": pa.nulls(count, pa.list_(pa.int64())),
                "neighbor_distances": pa.nulls(count, pa.list_(pa.float32())),
            }
        )
    )
    if near:
        ids = pa.array([near.get(sample) for sample in asked], pa.list_(pa.int64()))
        far = [[0.5] * len(near.get(sample, [])) for sample in asked]
        distances = pa.array(far, pa.list_(pa.float32()))
        table = {"sample_id": asked, "labeled_neighbor_ids": ids, "labeled_neighbor_distances": distances}
        round_.write_labeled_neighbors(pa.table(table))


@pytest.fixture
def open_pictures(tmp_path: Path) -> Iterator[Callable[..., Pictures]]:
    """`open_pictures(roots, ...)`: pictures with a cache of their own, closed behind the test."""
    opened: list[Pictures] = []

    def open_(roots: list[Path | str], **options: Any) -> Pictures:
        cache = options.pop("cache", tmp_path / f"cache-{len(opened)}")
        opened.append(Pictures([str(root) for root in roots], cache, **options))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()
