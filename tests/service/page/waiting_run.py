"""Runs as a driver leaves them whose last round awaits labels: real pictures, real neighbours, real twins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch

from dm2at_ray.config import Config
from dm2at_ray.labeling import LabelBook
from dm2at_ray.models.spec import ModelSpec
from dm2at_ray.pool import check_part, open_source, part_name
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RunDirectory

EPSILON = 8 / 255
NEIGHBORS = 5
ACCURACIES = [
    {"clean": 0.612, "fgsm": 0.437, "pgd": 0.391},
    {"clean": 0.708, "fgsm": 0.541, "pgd": 0.487},
    {"clean": 0.771, "fgsm": 0.613, "pgd": 0.562},
]
"""Of the committed rounds: drawn by the page, measured by nobody."""


@dataclass(frozen=True)
class WaitingRun:
    """A run whose last round awaits labels.

    Attributes:
        directory: The run directory.
        classes: Names of the classes.
        truth: The true class's name, by sample id.
        asked: Ids of the round that awaits labels, best first.
        round: That round.
    """

    directory: RunDirectory
    classes: list[str]
    truth: list[str]
    asked: list[int]
    round: int

    def predicted(self, sample_id: int) -> str:
        """What the model is said to take a sample for: always wrong."""
        return self.classes[(self.classes.index(self.truth[sample_id]) + 1) % len(self.classes)]

    def said(self) -> dict[int, str | None]:
        """What counts of the samples of the round, by what is on disk."""
        counts = LabelBook(self.directory).effective(self.asked)
        return dict(zip(counts["sample_id"].to_pylist(), counts["label"].to_pylist(), strict=True))

    def answer(self, ids: Sequence[int]) -> None:
        """Have somebody answer samples of the round elsewhere, rightly."""
        _answer(self, self.round, ids)

    def say(self, sample_id: int, label: str) -> None:
        """Have somebody else say something of a sample of the round."""
        table = pa.table({"sample_id": [sample_id], "label": [label], "round": [self.round]})
        LabelBook(self.directory).append(table, "max")

    def next_round(self, asked: int) -> WaitingRun:
        """Commit the round and have the next one await labels, as a driver does."""
        self.directory.round(self.round).write_metrics(_metrics(self.round, 100, len(self.truth)))
        self.directory.round(self.round).commit()
        rounds = [self.directory.round(index) for index in range(self.round + 1)]
        taken = {sample for round_ in rounds for sample in round_.query_ids().tolist()}
        free = [sample for sample in range(len(self.truth)) if sample not in taken]
        later = replace(self, asked=free[:asked], round=self.round + 1)
        _ask(later, later.round, later.asked)
        self.directory.write_status(_status(later, 100))
        return later

    def words(self) -> list[dict[str, Any]]:
        """Everything that was said of the samples of the round, oldest first."""
        return [row for row in LabelBook(self.directory).records().to_pylist() if row["round"] == self.round]


def make_run(
    uri: str,
    data: dict[str, Any],
    *,
    classes: Sequence[str] | None = None,
    committed: int = 2,
    labeled: int = 12,
    asked: int = 12,
    sufficient: float = 1.0,
    twins: bool = True,
    trained: bool = False,
) -> WaitingRun:
    """Write a run directory.

    Args:
        uri: Where.
        data: Section `data` of its config.
        classes: Other names for its classes; more than there are of the data may be given.
        committed: Rounds that are final.
        labeled: Samples of each of them.
        asked: Queries of the round that awaits labels.
        sufficient: Share of them that must be answered.
        twins: Whether the queries have adversarial twins.
        trained: Whether the final rounds have models.
    """
    directory = RunDirectory(uri)
    config = Config.from_mapping(
        {"name": directory.name, "data": data, "query": {"oracle": "files", "sufficient": sufficient}}
    )
    directory.write_config(config)
    source = open_source(source_spec(config))
    size, channels = source.native_size()
    (table,) = source.tables("pool")
    manifest = check_part(source, table, 0, size, channels)
    directory.manifest_files("pool").write_table(part_name(0), manifest)
    names = list(classes or source.class_names)
    directory.write_class_names(names)
    truth = [names[label] for label in manifest["label"].to_pylist()]
    chosen = np.random.default_rng(7).permutation(len(truth))[: labeled * committed + asked].tolist()
    uris, rows = manifest["uri"].to_pylist(), manifest["row"].to_pylist()
    images = np.stack(source.read([uris[each] for each in chosen], [rows[each] for each in chosen]))
    images = images.reshape(len(chosen), size, size, channels)
    run = WaitingRun(directory, names, truth, chosen[labeled * committed :], committed)
    for index in range(committed):
        own = chosen[labeled * index :][:labeled]
        _ask(run, index, own)
        _answer(run, index, own)
        if trained:
            _write_model(run, index, size, channels)
        directory.round(index).write_metrics(_metrics(index, labeled * (index + 1), len(truth)))
        directory.round(index).commit()
    _ask(run, committed, run.asked)
    _write_neighbors(run, chosen, images)
    if twins:
        _write_twins(run, images[labeled * committed :])
    directory.write_status(_status(run, labeled * committed))
    return run


def _ask(run: WaitingRun, index: int, ids: Sequence[int]) -> None:
    predicted = [run.classes.index(run.predicted(each)) for each in ids] if index else [None] * len(ids)
    run.directory.round(index).write_queries(
        pa.table(
            {
                "sample_id": ids,
                "rank": range(len(ids)),
                "score": np.linspace(2.1, 1.4, len(ids), dtype=np.float32),
                "predicted_label": pa.array(predicted, pa.int64()),
                "neighbor_ids": pa.nulls(len(ids), pa.list_(pa.int64())),
                "neighbor_distances": pa.nulls(len(ids), pa.list_(pa.float32())),
            }
        )
    )


def _answer(run: WaitingRun, index: int, ids: Sequence[int]) -> None:
    labels = [run.truth[each] for each in ids]
    table = pa.table({"sample_id": ids, "label": labels, "round": [index] * len(ids)})
    LabelBook(run.directory).append(table, "zoe")


def _write_neighbors(run: WaitingRun, chosen: Sequence[int], images: np.ndarray) -> None:
    """The labeled samples nearest to each query, by their pixels."""
    flat = images.reshape(len(images), -1).astype(np.float32) / 255
    labeled = len(chosen) - len(run.asked)
    distances = np.linalg.norm(flat[labeled:, None] - flat[None, :labeled], axis=-1)
    nearest = np.argsort(distances, axis=1)[:, :NEIGHBORS]
    run.directory.round(run.round).write_labeled_neighbors(
        pa.table(
            {
                "sample_id": run.asked,
                "labeled_neighbor_ids": pa.array([[chosen[each] for each in row] for row in nearest]),
                "labeled_neighbor_distances": pa.array(np.take_along_axis(distances, nearest, 1).tolist()),
            }
        )
    )


def _write_twins(run: WaitingRun, images: np.ndarray) -> None:
    """Each query moved by epsilon, up or down at random in every pixel."""
    signs = np.random.default_rng(8).choice([-1, 1], images.shape)
    moved = np.clip(np.rint(images + 255 * EPSILON * signs), 0, 255).astype(np.uint8)
    table = {
        "sample_id": run.asked,
        "predicted_label": [run.classes.index(run.predicted(each)) for each in run.asked],
        "image": pa.FixedShapeTensorArray.from_numpy_ndarray(moved),
    }
    run.directory.round(run.round).write_adversarial(0, pa.table(table))


def _write_model(run: WaitingRun, index: int, size: int, channels: int) -> None:
    spec = ModelSpec("small_cnn", num_classes=len(run.classes), channels=channels, image_size=size)
    state = {name: tensor.contiguous() for name, tensor in spec.build(seed=index).state_dict().items()}
    run.directory.round(index).write_model(safetensors.torch.save(state), spec, {})


def _metrics(index: int, labeled: int, size: int) -> dict[str, Any]:
    accuracy = ACCURACIES[index % len(ACCURACIES)]
    return {
        "round": index,
        "labeled": labeled,
        "pool": size - labeled,
        "accuracy": accuracy,
        "accuracy_interval": {name: [value - 0.03, value + 0.03] for name, value in accuracy.items()},
        "stage_seconds": {"train": 60.0},
    }


def _status(run: WaitingRun, labeled: int) -> dict[str, Any]:
    return {
        "phase": "awaiting_labels",
        "round": run.round,
        "stage": "",
        "labeled": labeled,
        "pool": len(run.truth) - labeled,
        "reason": f"waiting for labels of {len(run.asked)} queries of round {run.round}",
        "time": time.time(),
    }
