"""A run on the digits whose round 1 awaits labels, as a driver leaves it, made without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

from dm2at_ray.config import Config
from dm2at_ray.labeling import LabelBook
from dm2at_ray.pool import Source, check_part, open_source, part_name
from dm2at_ray.pool.sources import SourceSpec
from dm2at_ray.store import RunDirectory

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FIRST = [40, 7, 1200, 3]
ASKED = [1300, 5, 41, 1024, 0, 600]
LONG_AGO = datetime(2025, 11, 3, tzinfo=timezone.utc)


@dataclass(frozen=True)
class AskedRun:
    """The run, and what scikit-learn itself has under each sample id.

    Attributes:
        directory: Round 0 is committed with people's labels; round 1 has queries and no labels.
        source: Of the pool.
        pixels: uint8 (N, 8, 8), by sample id.
        names: The true class's name, by sample id.
    """

    directory: RunDirectory
    source: Source
    pixels: np.ndarray
    names: list[str]

    @property
    def truth(self) -> dict[int, str]:
        """The right labels of round 1."""
        return {sample: self.names[sample] for sample in ASKED}

    def predicted(self, sample: int) -> str:
        """What the model is said to take a sample for: always wrong."""
        return NAMES[(NAMES.index(self.names[sample]) + 1) % 10]


def make_asked_run(uri: str, asked: list[int] = ASKED) -> AskedRun:
    """Write the run directory."""
    directory = RunDirectory(uri)
    directory.write_config(
        Config.from_mapping({"name": "digits", "data": {"source": "digits"}, "query": {"oracle": "files"}})
    )
    directory.files.write_json("classes.json", {"names": NAMES})
    source = open_source(SourceSpec("digits", image_size=8, channels=1))
    (table,) = source.tables("pool")
    part = check_part(source, table, 0, image_size=8, channels=1)
    directory.manifest_files("pool").write_table(part_name(0), part)
    rows = part["row"].to_numpy()
    digits = load_digits()
    pixels = np.rint(digits.images[rows] * 255 / 16).astype(np.uint8)
    run = AskedRun(directory, source, pixels, [NAMES[target] for target in digits.target[rows]])
    first = directory.round(0)
    first.write_queries(queries(FIRST, [None] * len(FIRST)))
    LabelBook(directory).append(
        pa.table(
            {
                "sample_id": FIRST,
                "label": [run.names[sample] for sample in FIRST],
                "round": [0] * len(FIRST),
            }
        ),
        "ann",
        LONG_AGO,
    )
    first.commit()
    second = directory.round(1)
    second.write_queries(queries(asked, [NAMES.index(run.predicted(sample)) for sample in asked]))
    second.files.write_table("context.parquet", context(asked))
    return run


def queries(ids: list[int], predicted: list[int] | list[None]) -> pa.Table:
    return pa.table(
        {
            "sample_id": ids,
            "rank": range(len(ids)),
            "score": np.linspace(1, 0.5, len(ids), dtype=np.float32),
            "predicted_label": pa.array(predicted, pa.int64()),
            "neighbor_ids": pa.nulls(len(ids), pa.list_(pa.int64())),
            "neighbor_distances": pa.nulls(len(ids), pa.list_(pa.float32())),
        }
    )


def context(ids: list[int]) -> pa.Table:
    """Of every query the two labeled samples that are said to be nearest."""
    near = [[FIRST[place % 4], FIRST[(place + 1) % 4]] for place in range(len(ids))]
    return pa.table(
        {
            "sample_id": ids,
            "labeled_neighbor_ids": pa.array(near, pa.list_(pa.int64())),
            "labeled_neighbor_distances": pa.array([[0.25, 12.5]] * len(ids), pa.list_(pa.float32())),
        }
    )
