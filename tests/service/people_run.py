"""A run whose round awaits labels of people, of any size, made without Ray and without a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dm2at_ray.client.schemas import AnswerIn
from dm2at_ray.config import Config
from dm2at_ray.labeling import LabelBook
from dm2at_ray.pool import part_name
from dm2at_ray.pool.manifest import SCHEMA
from dm2at_ray.service.desk import Desk
from dm2at_ray.store import RunDirectory

CLASSES = ["cat", "dog", "cow"]
POOL = 30_000


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self, now: float = 1_762_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_people_run(
    uri: Path, ids: Sequence[int] | np.ndarray, *, pool: int = POOL, sufficient: float = 1.0
) -> RunDirectory:
    """A run whose round 0 asks for these samples, best first."""
    run = RunDirectory(str(uri))
    run.write_config(
        Config.from_mapping({"name": uri.name, "query": {"oracle": "files", "sufficient": sufficient}})
    )
    run.files.write_json("classes.json", {"names": CLASSES})
    rows = {
        "sample_id": np.arange(pool),
        "uri": ["pool"] * pool,
        "row": np.arange(pool),
        "label": pa.nulls(pool, pa.int64()),
        "status": ["ok"] * pool,
        "reason": pa.nulls(pool, pa.string()),
        "hash": pa.nulls(pool, SCHEMA.field("hash").type),
    }
    run.manifest_files("pool").write_table(part_name(0), pa.table(rows, schema=SCHEMA))
    ask(run, 0, ids)
    return run


def ask(run: RunDirectory, round_index: int, ids: Sequence[int] | np.ndarray) -> None:
    """Have a round ask for samples, best first."""
    count = len(ids)
    run.round(round_index).write_queries(
        pa.table(
            {
                "sample_id": np.asarray(ids, np.int64),
                "rank": range(count),
                "score": np.linspace(1, 0, count, dtype=np.float32),
                "predicted_label": [place % len(CLASSES) for place in range(count)],
                "neighbor_ids": pa.nulls(count, pa.list_(pa.int64())),
                "neighbor_distances": pa.nulls(count, pa.list_(pa.float32())),
            }
        )
    )


def said(labels: dict[int, str | None], round_index: int = 0) -> pa.Table:
    """Words on samples, for `LabelBook.append`."""
    return pa.table(
        {
            "sample_id": pa.array(labels, pa.int64()),
            "label": pa.array(labels.values(), pa.string()),
            "round": pa.array([round_index] * len(labels), pa.int32()),
        }
    )


def answers(labels: dict[int, str | None]) -> list[AnswerIn]:
    """The same words as they are posted."""
    return [AnswerIn(sample_id=sample_id, label=label) for sample_id, label in labels.items()]


def outcomes(desk: Desk, labeler: str, labels: dict[int, str | None]) -> list[str]:
    """What becomes of them."""
    return [each.outcome for each in desk.answer(labeler, answers(labels)).outcomes]


def in_book(run: RunDirectory) -> list[tuple[int, str | None, str]]:
    """What a fresh look at the log finds: sample id, label and source of every word, in order."""
    records = LabelBook(run).records()
    return [(row["sample_id"], row["label"], row["source"]) for row in records.to_pylist()]
