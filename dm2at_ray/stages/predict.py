"""A trained model on the images of any source, part by part, to Parquet files.

A part is a fixed number of images in the order of the listing, and a forward pass takes images of one part at
one fixed batch size: what the files say depends on neither the number of actors nor who did which part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, decode, open_source
from dm2at_ray.pool.manifest import OK, REJECTED
from dm2at_ray.stages.batches import pad_rows
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.fan_out import map_pieces, results
from dm2at_ray.stages.images import to_device
from dm2at_ray.stages.prediction_files import PredictionFiles
from dm2at_ray.stages.tally import Tally

READ_AT_ONCE = 256
"""Encoded images in memory besides the batch that they are decoded into."""


@dataclass(frozen=True)
class PredictionPlan:
    """What is predicted.

    Attributes:
        out: Path or URI of the directory to fill, its listing complete.
        class_names: In the order of the logits.
        top: The so many best classes of each image are kept too; 0 for none but the best.
        all_probabilities: Whether the probabilities of all classes are kept too.
    """

    out: str
    class_names: tuple[str, ...]
    top: int = 0
    all_probabilities: bool = False

    @property
    def hits(self) -> tuple[str, ...]:
        """What counts as right: `top1`, and `topK` where the best K are kept."""
        return ("top1", f"top{self.top}") if self.top > 1 else ("top1",)


@dataclass
class Found:
    """What the parts say together.

    Attributes:
        tally: Labeled images that could be read, by class, and the right answers among them.
        predicted: Images taken for each class, int64 (classes,).
        rejected: Images that could not be read.
        example: One of these with the reason; None where all could be.
        new_parts: Parts that were not there before.
    """

    tally: Tally
    predicted: np.ndarray
    rejected: int = 0
    example: str | None = None
    new_parts: int = 0
    _example_part: int = field(default=-1, repr=False)

    @property
    def images(self) -> int:
        """Images, those that could not be read included."""
        return int(self.predicted.sum()) + self.rejected

    def add(self, table: pa.Table, hits: tuple[str, ...]) -> None:
        """Count a part, as `count_part` has it; parts come in any order."""
        (row,) = table.to_pylist()
        right = {name: np.array(row[name]) for name in hits}
        self.tally += Tally(np.array(row["labeled"]), right)
        self.predicted = self.predicted + np.array(row["predicted"])
        self.rejected += row["rejected"]
        self.new_parts += row["new"]
        if row["example"] is not None and (self.example is None or row["part"] < self._example_part):
            self.example, self._example_part = row["example"], row["part"]


def predict(
    context: StageContext, plan: PredictionPlan, parts: int, images: int, progress: Progress
) -> Found:
    """Predict the parts that are not there, and count all of them.

    Args:
        context: The round whose model it is, with the source to predict in the place of the run's own.
        plan: What to predict.
        parts: Parts of the listing.
        images: Images of the listing.
        progress: Told of every part.
    """
    classes = context.model.num_classes
    found = Found(Tally.empty(classes, plan.hits), np.zeros(classes, np.int64))
    dataset = map_pieces(
        pa.table({"part": range(parts)}), Predictor, context, plan, on_actors=False, name="predict"
    )
    for table, node in results(dataset):
        found.add(table, plan.hits)
        progress(found.images, images, node)
    assert found.images == images, f"{found.images} predictions for {images} images"
    return found


class Predictor:
    """Predicts one part at a time, and leaves out one that is there already."""

    def __init__(self, context: StageContext, plan: PredictionPlan) -> None:
        context.begin_piece()
        self._context = context
        self._plan = plan
        self._files = PredictionFiles(plan.out)

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take the number of a part to what it says in short."""
        index = int(batch["part"][0])
        listing = self._files.listing(index)
        table = self._part_of(listing, index)
        if table is not None:
            return count_part(table, self._plan, index, new=False)
        table = self._predict(listing)
        self._files.write_part(index, table)
        return count_part(table, self._plan, index, new=True)

    def _part_of(self, listing: pa.Table, index: int) -> pa.Table | None:
        """What an earlier call predicted of these images; None where it did not, or of others."""
        if not self._files.has_part(index):
            return None
        columns = ["uri", "row", "status", "reason", "label", "predicted_label"]
        table = self._files.part(index, [*columns, "top_labels"] if self._plan.top else columns)
        of = ["uri", "row"]
        return table if table.select(of).equals(listing.select(of)) else None

    @torch.inference_mode()
    def _predict(self, listing: pa.Table) -> pa.Table:
        context, plan = self._context, self._plan
        model, source = context.trained_model(), _open_source(context.source)
        kept = max(plan.top, 1)
        count, size = listing.num_rows, context.batch_size
        labels = np.empty((count, kept), np.int64)
        best = np.empty((count, kept), np.float32)
        every = np.empty((count, context.model.num_classes if plan.all_probabilities else 0), np.float32)
        reasons: list[str | None] = []
        for begin in range(0, count, size):
            images, broken = _read(source, listing.slice(begin, size), context)
            reasons += broken
            x = to_device(pad_rows(images, size), context.device)
            probabilities = model(x)[: len(images)].float().softmax(dim=1)
            # A stable order: of classes that are as probable as each other, the first.
            ranked = probabilities.sort(dim=1, descending=True, stable=True)
            rows = slice(begin, begin + len(images))
            labels[rows] = ranked.indices[:, :kept].cpu().numpy()
            best[rows] = ranked.values[:, :kept].cpu().numpy()
            if plan.all_probabilities:
                every[rows] = probabilities.cpu().numpy()
        return _part(listing, reasons, labels, best, every, plan)


def count_part(table: pa.Table, plan: PredictionPlan, index: int, new: bool) -> pa.Table:
    """One row that says in short what a part says.

    Args:
        table: Columns of the part.
        plan: What was predicted.
        index: The part's number.
        new: Whether it was not there before.
    """
    classes = len(plan.class_names)
    is_ok = pc.equal(table["status"], OK)
    rejected, read = table.filter(pc.invert(is_ok)), table.filter(is_ok)
    labeled = read.filter(read["label"].is_valid())
    labels = labeled["label"].to_numpy()
    right = {"top1": labeled["predicted_label"].to_numpy() == labels}
    if plan.top > 1:
        top = pc.list_flatten(labeled["top_labels"]).to_numpy().reshape(-1, plan.top)
        right[plan.hits[-1]] = (top == labels[:, None]).any(axis=1)
    tally = Tally.of(labels, right, classes)
    example = None
    if rejected.num_rows:
        first = rejected.slice(0, 1).to_pylist()[0]
        example = f"{first['uri']} row {first['row']} ({first['reason']})"
    facts: dict[str, Any] = {
        "part": index,
        "new": int(new),
        "rejected": rejected.num_rows,
        "example": example,
        "labeled": tally.images,
        "predicted": np.bincount(read["predicted_label"].to_numpy(), minlength=classes),
        **tally.right,
    }
    # Every part's row is of the same types, whether or not it has an example.
    types = {"example": pa.string()}
    return pa.table({name: pa.array([value], types.get(name)) for name, value in facts.items()})


def _read(source: Source, entries: pa.Table, context: StageContext) -> tuple[np.ndarray, list[str | None]]:
    """Images uint8 (n, H, W, C), black where one cannot be read, and why it cannot."""
    size, channels = context.model.image_size, context.model.channels
    images = np.zeros((entries.num_rows, size, size, channels), np.uint8)
    reasons: list[str | None] = [None] * entries.num_rows
    for begin in range(0, entries.num_rows, READ_AT_ONCE):
        some = entries.slice(begin, READ_AT_ONCE)
        raws = source.read(some["uri"].to_pylist(), some["row"].to_pylist())
        for place, raw in enumerate(raws, start=begin):
            try:
                images[place] = decode(raw, size, channels)
            except UnreadableImage as unreadable:
                reasons[place] = unreadable.reason
    return images, reasons


def _part(
    listing: pa.Table,
    reasons: list[str | None],
    labels: np.ndarray,
    best: np.ndarray,
    every: np.ndarray,
    plan: PredictionPlan,
) -> pa.Table:
    """The table of a part; an image that could not be read has no prediction."""
    broken = np.array([reason is not None for reason in reasons])
    names = np.array(plan.class_names, dtype=object)
    columns: dict[str, Any] = {
        "uri": listing["uri"],
        "row": listing["row"],
        "status": pa.array(np.where(broken, REJECTED, OK), pa.string()),
        "reason": pa.array(reasons, pa.string()),
        "label": listing["label"],
        "predicted": pa.array(names[labels[:, 0]], pa.string(), mask=broken),
        "predicted_label": pa.array(labels[:, 0], pa.int64(), mask=broken),
        "probability": pa.array(best[:, 0], pa.float32(), mask=broken),
    }
    if plan.top:
        columns["top_predicted"] = _lists(pa.array(names[labels].ravel(), pa.string()), plan.top, broken)
        columns["top_labels"] = _lists(pa.array(labels.ravel()), plan.top, broken)
        columns["top_probabilities"] = _lists(pa.array(best.ravel()), plan.top, broken)
    if plan.all_probabilities:
        columns["probabilities"] = _lists(pa.array(every.ravel()), every.shape[1], broken)
    metadata = {"class_names": json.dumps(plan.class_names)}
    return pa.table(columns).replace_schema_metadata(metadata)


def _lists(values: pa.Array, size: int, broken: np.ndarray) -> pa.Array:
    """Values (n * size,) as n lists of one size, null where the image could not be read."""
    return pa.FixedSizeListArray.from_arrays(values, size, mask=pa.array(broken))


@lru_cache(maxsize=1)
def _open_source(spec: SourceSpec) -> Source:
    return open_source(spec)
