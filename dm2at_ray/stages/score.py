"""Steps 3 and 4 of Algorithm 2: mixtures, their uncertainty, and the B highest of the whole pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import ObjectRef

from dm2at_ray.algorithm.acquisition import Candidates, Strategy, make_strategy, top_queries
from dm2at_ray.config import Config
from dm2at_ray.stages.batches import IdRange, aligned_batches, pad_rows, unlabeled_count, unlabeled_ids
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.embed import FeatureBlocks
from dm2at_ray.stages.fan_out import map_pieces, results
from dm2at_ray.stages.images import to_device
from dm2at_ray.stages.neighbors import read_neighbors
from dm2at_ray.store.rounds import QUERIES_SCHEMA

GATHER_BYTES = 128 * 2**20
"""Neighbours' features that a scorer holds at a time."""


@dataclass(frozen=True)
class Acquisition:
    """What is scored and how; hashable, so that a process keeps its scorer.

    Attributes:
        strategy: Name of the acquisition strategy.
        measure: Uncertainty of one mixture.
        aggregate: Over the mixtures.
        alpha: Of Beta(alpha, alpha).
        space: Where MixUp happens.
    """

    strategy: str
    measure: str
    aggregate: str
    alpha: float
    space: str

    @classmethod
    def of(cls, config: Config, *, strategy: str | None = None, space: str | None = None) -> Acquisition:
        """The acquisition that a config asks for, or the same with another strategy or space."""
        return cls(
            strategy=strategy or config.query.strategy,
            measure=config.query.measure,
            aggregate=config.query.aggregate,
            alpha=config.mixup.alpha,
            space=space or config.mixup.space,
        )

    def make(self) -> Strategy:
        """The strategy itself."""
        return make_strategy(
            self.strategy,
            measure=self.measure,
            aggregate=self.aggregate,
            alpha=self.alpha,
            space=self.space,  # type: ignore[arg-type]
        )


def score(
    context: StageContext,
    acquisition: Acquisition,
    blocks: list[IdRange],
    excluded: np.ndarray,
    features: FeatureBlocks | None,
    budget: int,
    progress: Progress,
) -> pa.Table:
    """Score every unlabeled sample and keep the `budget` highest.

    Args:
        context: The round.
        acquisition: The strategy.
        blocks: U, cut by `unlabeled_blocks`.
        excluded: Sorted ids (n,) int64 that are not in U.
        features: From `embed`; None for a strategy that needs none.
        budget: Queries wanted.
        progress: Told of every block.

    Returns:
        The queries, best first, ties by the smaller id: rank, sample_id, score, predicted_label (null without
        features), neighbor_ids, neighbor_distances. The driver holds `budget` rows and one block's best.
    """
    pieces = pa.table({"begin": [b.begin for b in blocks], "end": [b.end for b in blocks]})
    arguments = (acquisition, features or ray.put(excluded), budget)
    dataset = map_pieces(pieces, BlockScorer, context, *arguments, on_actors=False, name="score")
    total = sum(unlabeled_count(block, excluded) for block in blocks)
    return _best(results(dataset), budget, total, progress)


def rescore(
    context: StageContext, acquisition: Acquisition, candidates: pa.Table, budget: int, progress: Progress
) -> pa.Table:
    """Score the samples that a cheaper score let through, and keep the `budget` highest.

    Args:
        context: The round.
        acquisition: The strategy, in input space.
        candidates: As `score` returns them.
        budget: Queries wanted.
        progress: Told of every batch.

    Returns:
        As `score` does.
    """
    candidates = candidates.sort_by("sample_id")
    begins = range(0, len(candidates), context.batch_size)
    pieces = pa.table({"begin": begins})
    arguments = (acquisition, ray.put(candidates), budget)
    dataset = map_pieces(pieces, CandidateScorer, context, *arguments, on_actors=False, name="rescore")
    return _best(results(dataset), budget, len(candidates), progress)


class BlockScorer:
    """Scores one block of the unlabeled pool and keeps its best."""

    def __init__(
        self, context: StageContext, acquisition: Acquisition, source: FeatureBlocks | ObjectRef, budget: int
    ) -> None:
        context.begin_piece()
        self._context = context
        self._strategy = acquisition.make()
        self._features = source if isinstance(source, FeatureBlocks) else None
        self._excluded = source if isinstance(source, ObjectRef) else None
        self._budget = budget

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take a range of ids to its `budget` best rows."""
        block = IdRange(int(batch["begin"][0]), int(batch["end"][0]))
        if self._features is None:
            ids = unlabeled_ids(block, ray.get(self._excluded))
            columns = {
                "sample_id": ids,
                "score": _scores(self._context, self._strategy, ids, None, None, None),
            }
            return _top(pa.table(columns), self._budget)
        ids, features = self._features.of(block)
        columns = {"sample_id": ids, "predicted_label": _predict(self._context, ids, features)}
        neighbors = None
        if self._strategy.needs_neighbors and self._features.rows > 1:
            table = read_neighbors(self._context.round, block)
            columns |= {name: table[name] for name in ("neighbor_ids", "neighbor_distances")}
            neighbors = fixed_size_lists(table["neighbor_ids"])
        columns["score"] = _scores(self._context, self._strategy, ids, features, neighbors, self._features)
        return _top(pa.table(columns), self._budget)


class CandidateScorer:
    """Scores one batch of the candidates that were let through."""

    def __init__(
        self, context: StageContext, acquisition: Acquisition, candidates: ObjectRef, budget: int
    ) -> None:
        context.begin_piece()
        self._context = context
        self._strategy = acquisition.make()
        self._candidates = candidates
        self._budget = budget

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take the place of a batch among the candidates to its `budget` best rows."""
        table = ray.get(self._candidates).slice(int(batch["begin"][0]), self._context.batch_size)
        ids, neighbors = table["sample_id"].to_numpy(), fixed_size_lists(table["neighbor_ids"])
        rows = slice(0, len(ids))
        scores = _score_batch(self._context, self._strategy, ids, rows, None, neighbors, None)
        return _top(table.drop_columns("score").append_column("score", pa.array(scores)), self._budget)


def fixed_size_lists(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists of one length k as an array (n, k)."""
    values = pa.concat_arrays([chunk.flatten() for chunk in column.chunks]).to_numpy()
    return values.reshape(len(column), -1)


def _scores(
    context: StageContext,
    strategy: Strategy,
    ids: np.ndarray,
    features: np.ndarray | None,
    neighbors: np.ndarray | None,
    pool_features: FeatureBlocks | None,
) -> np.ndarray:
    """Scores (n,) float32 of ascending ids, in aligned and padded batches."""
    scores = np.empty(len(ids), np.float32)
    mixed = None if strategy.needs_images else neighbors
    row_bytes = 1 if mixed is None or features is None else 2 * mixed.shape[1] * features.shape[1]
    at_once = max(1, GATHER_BYTES // (row_bytes * context.batch_size))
    batches = list(aligned_batches(ids, context.batch_size))
    for first in range(0, len(batches), at_once):
        group = batches[first : first + at_once]
        begin, end = group[0].start, group[-1].stop
        near = None if mixed is None or pool_features is None else pool_features.gather(mixed[begin:end])
        for rows in group:
            near_rows = None if near is None else near[rows.start - begin : rows.stop - begin]
            scores[rows] = _score_batch(context, strategy, ids, rows, features, neighbors, near_rows)
    return scores


@torch.inference_mode()
def _score_batch(
    context: StageContext,
    strategy: Strategy,
    ids: np.ndarray,
    rows: slice,
    features: np.ndarray | None,
    neighbors: np.ndarray | None,
    near: np.ndarray | None,
) -> np.ndarray:
    """Scores (n,) float32 of one batch: what the strategy asks for is read, padded and handed to it."""
    size, device, pool = context.batch_size, context.device, context.pool()

    def padded(values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else torch.tensor(pad_rows(values, size), device=device)

    def images(sample_ids: np.ndarray) -> torch.Tensor:
        return to_device(pad_rows(pool.read(sample_ids), size), device)

    needs_model = strategy.needs_features or strategy.needs_images
    near_ids = neighbors[rows] if neighbors is not None else np.empty((rows.stop - rows.start, 0), np.int64)
    candidates = Candidates(
        seed=context.seed,
        round_index=context.round_index,
        sample_ids=pad_rows(ids[rows], size),
        features=padded(None if features is None else features[rows]),
        images=images(ids[rows]) if strategy.needs_images else None,
        neighbor_features=padded(near),
        neighbor_images=(lambda rank: images(near_ids[:, rank])) if strategy.needs_images else None,
        neighbor_count=near_ids.shape[1],
    )
    scores = strategy.score(context.current_model() if needs_model else None, candidates)
    return scores[: rows.stop - rows.start].float().cpu().numpy()


@torch.inference_mode()
def _predict(context: StageContext, ids: np.ndarray, features: np.ndarray) -> np.ndarray:
    """argmax g(h(x)) (n,) int64, from the features."""
    labels = np.empty(len(ids), np.int64)
    for rows in aligned_batches(ids, context.batch_size):
        h = torch.tensor(pad_rows(features[rows], context.batch_size), device=context.device).float()
        labels[rows] = context.current_model().head(h).argmax(dim=1)[: rows.stop - rows.start].cpu().numpy()
    return labels


def _top(table: pa.Table, budget: int) -> pa.Table:
    """The best rows of a piece, and in `scored` how many there were."""
    best = top_queries(table["score"].to_numpy(), table["sample_id"].to_numpy(), budget)
    return table.take(best).append_column("scored", pa.array(np.full(len(best), len(table))))


def _best(
    parts: Iterator[tuple[pa.Table, str | None]], budget: int, total: int, progress: Progress
) -> pa.Table:
    best: pa.Table | None = None
    done = 0
    for part, node in parts:
        done += part["scored"][0].as_py()
        part = part.drop_columns("scored")
        best = part if best is None else pa.concat_tables([best, part])
        best = best.take(top_queries(best["score"].to_numpy(), best["sample_id"].to_numpy(), budget))
        progress(done, total, node)
    assert best is not None, "an empty pool has nothing to score"
    return _as_queries(best)


def _as_queries(best: pa.Table) -> pa.Table:
    columns = {
        "sample_id": best["sample_id"],
        "rank": pa.array(range(len(best)), pa.int32()),
        "score": best["score"],
    }
    for field in QUERIES_SCHEMA:
        if field.name not in columns:
            known = field.name in best.column_names
            columns[field.name] = best[field.name] if known else pa.nulls(len(best), field.type)
    return pa.table(columns).select(QUERIES_SCHEMA.names).cast(QUERIES_SCHEMA)
