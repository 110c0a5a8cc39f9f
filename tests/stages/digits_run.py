"""A run directory with two rounds on the digits, as a driver leaves it, made without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import safetensors.torch
from sklearn.datasets import load_digits

from dm2at_ray.config import Config
from dm2at_ray.models import ModelSpec
from dm2at_ray.pool import SourceSpec, check_part, open_source, part_name
from dm2at_ray.stages.context import StageContext
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.tensors import tensor_column

SOURCE = SourceSpec("digits", image_size=8, channels=1)
MODEL = ModelSpec("small_cnn", num_classes=10, channels=1, image_size=8)
QUERIES = (
    np.array([40, 7, 1200, 3, 99, 1023]),
    np.array([1300, 5, 41, 1024, 0, 600, 2, 77, 78, 79, 80, 81, 1100, 1]),
)
BATCH_SIZE = 8
SEED = 0


@dataclass(frozen=True)
class DigitsRun:
    """The run directory and, from scikit-learn itself, what lies under each sample id of the pool.

    Attributes:
        directory: With rounds 0 and 1 committed; round 1 has twins in two parts.
        images: uint8 (N, 8, 8, 1), by sample id.
        labels: int64 (N,), by sample id.
        queries: Sample ids of each round, best first.
    """

    directory: RunDirectory
    images: np.ndarray
    labels: np.ndarray
    queries: tuple[np.ndarray, ...] = QUERIES

    def context(self, round_index: int) -> StageContext:
        """What a stage of this round is told."""
        compute = Config().compute
        return StageContext(self.directory.uri, SOURCE, MODEL, SEED, round_index, BATCH_SIZE, compute)

    @staticmethod
    def twin_of(images: np.ndarray) -> np.ndarray:
        """What stands for the adversarial twins: the negatives."""
        return 255 - images

    def predicted(self, ids: np.ndarray) -> np.ndarray:
        """What the model is said to have taken them for: always wrong."""
        return (self.labels[ids] + 1) % 10


def make_digits_run(uri: str) -> DigitsRun:
    """Write the run directory."""
    directory = RunDirectory(uri)
    directory.write_config(Config.from_mapping({"name": "digits", "attack": {"epsilon": "8/255"}}))
    rows = write_manifest(directory)
    digits = load_digits()
    pixels = np.rint(digits.images[rows] * 255 / 16).astype(np.uint8)[..., None]
    run = DigitsRun(directory, pixels, digits.target[rows].astype(np.int64))
    for index in (0, 1):
        write_round(run, index)
    return run


def write_manifest(directory: RunDirectory) -> np.ndarray:
    """List the pool; returns scikit-learn's row of each sample id."""
    source = open_source(SOURCE)
    (table,) = source.tables("pool")
    part = check_part(source, table, 0, image_size=8, channels=1)
    directory.manifest_files("pool").write_table(part_name(0), part)
    return part["row"].to_numpy()


def write_round(run: DigitsRun, index: int) -> None:
    """Write everything that a round leaves, and commit it."""
    round_, ids = run.directory.round(index), run.queries[index]
    count = len(ids)
    round_.write_queries(
        pa.table(
            {
                "sample_id": ids,
                "rank": np.arange(count, dtype=np.int32),
                "score": np.linspace(1, 0.5, count, dtype=np.float32),
                "predicted_label": pa.nulls(count, pa.int64()),
                "neighbor_ids": pa.nulls(count, pa.list_(pa.int64())),
                "neighbor_distances": pa.nulls(count, pa.list_(pa.float32())),
            }
        )
    )
    if index > 0:
        in_order = np.sort(ids)
        for part, part_ids in enumerate((in_order[:BATCH_SIZE], in_order[BATCH_SIZE:])):
            twins = {
                "sample_id": part_ids,
                "predicted_label": run.predicted(part_ids),
                "image": tensor_column(run.twin_of(run.images[part_ids])),
            }
            round_.files.write_table(round_.adversarial_part(part), pa.table(twins))
    # Oracles may answer in any order.
    answered = ids[::-1]
    round_.write_labels(
        pa.table(
            {
                "sample_id": answered,
                "label": run.labels[answered],
                "source": ["simulated"] * count,
                "time": [datetime(2025, 11, 3, tzinfo=timezone.utc)] * count,
            }
        )
    )
    state = MODEL.build(seed=index).state_dict()
    weights = safetensors.torch.save({name: value.contiguous() for name, value in state.items()})
    round_.write_model(weights, MODEL, {"clean_accuracy": 1.0})
    round_.write_metrics(round_metrics(run, index))
    round_.commit()


def round_metrics(run: DigitsRun, index: int) -> dict[str, object]:
    """What the round reports; the figures are made up."""
    accuracy = {"clean": 0.9, "fgsm": 0.8, "pgd": 0.7}
    labeled = sum(len(ids) for ids in run.queries[: index + 1])
    return {
        "round": index,
        "labeled": labeled,
        "pool": len(run.labels) - labeled,
        "rejected": 0,
        "queried": len(run.queries[index]),
        "queries_by_class": np.bincount(run.labels[run.queries[index]], minlength=10).tolist(),
        "accuracy": accuracy,
        "accuracy_by_class": {attack: [value] * 10 for attack, value in accuracy.items()},
        "loss": {"clean": 0.1, "adversarial": 0.4, "total": 0.25},
        "train_accuracy": 1.0,
        "stage_seconds": {"label": 0.1, "train": 2.0},
        "stage_images": {"label": len(run.queries[index]), "train": labeled},
        "query_scores": [],
    }
