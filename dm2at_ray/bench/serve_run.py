"""The run that `dm2at bench serve` labels: a round that awaits labels of pictures, made without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa

from dm2at_ray.bench.pool_images import CLASSES, FIRST_TEST_ID, SIZE, draw_pictures, write_shard
from dm2at_ray.config import Config
from dm2at_ray.labeling import LabelBook, export_queries
from dm2at_ray.pool import PART_ROWS, check_part, open_source, part_name
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.rounds import LABELS_SCHEMA

NAME = "bench"
LABELED = 100
"""Samples that are labeled before: neighbours to show."""
NEIGHBORS = 5


@dataclass(frozen=True)
class BenchRun:
    """A run whose round 1 awaits labels.

    Attributes:
        directory: The run directory.
        images: Folder of the pool's pictures, outside of it.
        truth: Sample id -> name of its class, of round 1's queries.
    """

    directory: RunDirectory
    images: Path
    truth: dict[int, str]


def make_run(folder: Path, queries: int, seed: int, progress: Callable[[str], None]) -> BenchRun:
    """Write pictures, and a run directory below `folder/runs` as a driver and its export leave it.

    Args:
        folder: Where; must exist.
        queries: Of round 1.
        seed: Of the pictures, and of which of them are asked for.
        progress: Told in a line what is done.
    """
    images = folder / "images"
    count = LABELED + queries
    progress(f"making {count:,} pictures")
    for split, first_id, rows in (("pool", 0, count), ("test", FIRST_TEST_ID, 1)):
        (images / split).mkdir(parents=True)
        write_shard(images / split / "00000.parquet", first_id, rows, seed)
    places = {"path": str(images / "pool"), "test_path": str(images / "test")}
    random = np.random.default_rng(seed)
    ids, labels = random.permutation(count), draw_pictures(np.arange(count), seed).labels
    run = RunDirectory(str(folder / "runs" / NAME))
    run.write_config(
        Config.from_mapping(
            {
                "name": NAME,
                "seed": seed,
                "data": {"source": "parquet", "image_size": SIZE, "channels": 3, **places},
                "query": {"oracle": "files", "initial": LABELED, "size": queries},
            }
        )
    )
    run.write_class_names(list(CLASSES))
    source = open_source(source_spec(run.config()))
    for index, table in enumerate(source.tables("pool")):
        part = check_part(source, table, index * PART_ROWS, image_size=SIZE, channels=3)
        run.manifest_files("pool").write_table(part_name(index), part)
    first, asked = ids[:LABELED], ids[LABELED:]
    _write_first_round(run, first, labels)
    second = run.round(1)
    second.begin(count)
    predicted = random.integers(len(CLASSES), size=queries)
    second.write_queries(_queries(asked, random.random(queries), predicted))
    second.write_labeled_neighbors(_neighbors(asked, first, random))
    progress(f"exporting the pictures of {queries:,} queries")
    exported = export_queries(run, source, "csv", round_index=1)
    second.write_export(exported.folder)
    facts = {"labeled": LABELED, "pool": queries, "rejected": 0, "stage": "", "done": 0, "total": 0}
    run.write_status({"phase": "awaiting_labels", "round": 1, "time": time.time(), **facts})
    return BenchRun(run, images, {int(each): CLASSES[labels[each]] for each in asked})


def _write_first_round(run: RunDirectory, ids: np.ndarray, labels: np.ndarray) -> None:
    round_ = run.round(0)
    round_.begin(len(labels))
    round_.write_queries(_queries(ids, np.zeros(len(ids)), None))
    names = pa.array([CLASSES[labels[each]] for each in ids])
    rounds = pa.array([0] * len(ids), pa.int32())
    LabelBook(run).append(pa.table({"sample_id": ids, "label": names, "round": rounds}), "before")
    moment = [datetime.now(timezone.utc)] * len(ids)
    round_.write_labels(pa.table([ids, labels[ids], ["before"] * len(ids), moment], schema=LABELS_SCHEMA))
    round_.commit()


def _queries(ids: np.ndarray, scores: np.ndarray, predicted: np.ndarray | None) -> pa.Table:
    nobody = pa.nulls(len(ids), pa.list_(pa.int64()))
    return pa.table(
        {
            "sample_id": ids,
            "rank": range(len(ids)),
            "score": -np.sort(-scores),
            "predicted_label": pa.nulls(len(ids), pa.int64()) if predicted is None else predicted,
            "neighbor_ids": nobody,
            "neighbor_distances": nobody,
        }
    )


def _neighbors(ids: np.ndarray, labeled: np.ndarray, random: np.random.Generator) -> pa.Table:
    """Of each query some labeled samples, said to be the nearest."""
    near = random.permuted(np.tile(labeled, (len(ids), 1)), axis=1)[:, :NEIGHBORS]
    distances = np.sort(random.random((len(ids), NEIGHBORS)), axis=1)
    return pa.table(
        {
            "sample_id": ids,
            "labeled_neighbor_ids": near.tolist(),
            "labeled_neighbor_distances": distances.tolist(),
        }
    )
