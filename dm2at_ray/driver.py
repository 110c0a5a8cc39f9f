"""The driver: Algorithm 2 of Song et al. (Entropy 27(11):1159, 2025) as a loop over stages, round by round.

It holds ids and scores of a few times B samples, never images or features of the pool. All of its state is in
the run directory: a driver that is started again carries on from there.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
from ray.actor import ActorHandle

from dm2at_ray.config import Config
from dm2at_ray.journal import Journal, costs_by_kind
from dm2at_ray.models import ModelSpec
from dm2at_ray.pool import ORACLES, SourceSpec
from dm2at_ray.stages.batches import unlabeled_blocks
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.craft import craft, craft_parts
from dm2at_ray.stages.embed import embed
from dm2at_ray.stages.evaluate import EvaluationPlan, evaluate
from dm2at_ray.stages.manifest import SplitSummary, TooManyRejectsError, build_manifest, summary_of
from dm2at_ray.stages.neighbors import find_neighbors, has_neighbors, search_summary
from dm2at_ray.stages.score import Acquisition, rescore, score
from dm2at_ray.stages.train import retrain
from dm2at_ray.stopping import stop_reason
from dm2at_ray.store import RoundDirectory, RunDirectory


class Driver:
    """Plays the rounds of one run.

    Args:
        config: Of the run.
        run: The run directory.
        source: Where the images are, with `image_size` and `channels` resolved.
        model: The classifier's spec.
        journal: Where it tells how far it is.
        listener: Actor whose `training_progress` the training workers call; None for nobody.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        source: SourceSpec,
        model: ModelSpec,
        journal: Journal,
        listener: ActorHandle | None = None,
    ) -> None:
        self._config = config
        self._run = run
        self._source = source
        self._model = model
        self._journal = journal
        self._listener = listener

    def run(self, sizes: dict[str, int]) -> str:
        """Play rounds until a stop rule says so.

        Args:
            sizes: Images expected in the splits `pool` and `test`.

        Returns:
            Why the run is over.
        """
        self._pool = self._listed("pool", sizes["pool"])
        self._test = self._listed("test", sizes["test"])
        self._rejected = self._context(0).pool().rejected_ids()
        while True:
            done = self._run.committed_rounds()
            excluded = self._excluded(len(done))
            unlabeled = self._pool.size - len(excluded)
            self._tell_sizes(excluded)
            reason = stop_reason(self._config.stop, [r.metrics() for r in done], unlabeled)
            if reason is not None:
                self._journal.close("done", reason=reason)
                return reason
            self._play(self._run.round(len(done)), excluded)

    def _play(self, round_: RoundDirectory, excluded: np.ndarray) -> None:
        """One round; what an earlier attempt at it has left is not done again."""
        context = self._context(round_.index)
        if not round_.has_queries:
            round_.write_queries(self.select(context, excluded))  # Steps 1 to 4
        query_ids = round_.query_ids()
        if round_.index > 0 and not round_.has_adversarial(craft_parts(len(query_ids), context.batch_size)):
            with self._journal.stage(round_, "craft") as progress:  # Step 5
                craft(context, query_ids, self._config.attack.epsilon, progress)
        if not round_.has_labels:
            with self._journal.stage(round_, "label") as progress:  # Step 6
                round_.write_labels(self._ask_oracle(context, query_ids))
                progress(len(query_ids), len(query_ids))
        # Step 7: L and U are what the rounds' labels say
        labeled_or_rejected = self._excluded(round_.index + 1)
        self._tell_sizes(labeled_or_rejected)
        if not round_.has_model:
            with self._journal.stage(round_, "train", unit="steps") as progress:  # Step 8
                self._retrain(context)
                progress(len(labeled_or_rejected) - len(self._rejected), 0)
        if not round_.has_metrics:
            with self._journal.stage(round_, "evaluate") as progress:
                measured = evaluate(context, EvaluationPlan.of(self._config, self._test.size), progress)
            round_.write_metrics(self._metrics(round_, measured, labeled_or_rejected))
        round_.commit()
        self._journal.committed(round_.metrics())

    def select(self, context: StageContext, excluded: np.ndarray) -> pa.Table:
        """Steps 1 to 4: the queries of the round, best first; round 0 draws them at random."""
        round_ = context.round
        acquisition = Acquisition.of(self._config, strategy="random" if round_.index == 0 else None)
        strategy = acquisition.make()
        budget = self._budget(round_.index, excluded)
        blocks = unlabeled_blocks(self._pool.size, context.compute.block_rows, context.batch_size, excluded)
        k = min(self._config.neighbors.k, self._pool.size - len(excluded) - 1)
        features = None
        if strategy.needs_features or strategy.needs_neighbors or strategy.needs_images:
            with self._journal.stage(round_, "embed") as progress:  # Step 1
                features = embed(context, blocks, excluded, progress)
        if features and strategy.needs_neighbors and k > 0 and not has_neighbors(context, blocks):
            with self._journal.stage(round_, "neighbors") as progress:  # Step 2
                self._tell_recall(
                    round_.index, find_neighbors(context, self._config.neighbors, features, k, progress)
                )
        with self._journal.stage(round_, "score") as progress:  # Steps 3 and 4
            prescreen = self._config.mixup.prescreen
            if not (prescreen and strategy.needs_neighbors):
                return score(context, acquisition, blocks, excluded, features, budget, progress)
            in_features = Acquisition.of(self._config, space="feature")
            candidates = score(context, in_features, blocks, excluded, features, prescreen * budget, progress)
            return rescore(context, acquisition, candidates, budget, progress)

    def _ask_oracle(self, context: StageContext, query_ids: np.ndarray) -> pa.Table:
        oracle = ORACLES[self._config.query.oracle](context.pool())
        return pa.table(
            {
                "sample_id": query_ids,
                "label": oracle.label(query_ids),
                "source": [oracle.name] * len(query_ids),
                "time": [datetime.now(timezone.utc)] * len(query_ids),
            }
        )

    def _retrain(self, context: StageContext) -> None:
        config = self._config
        training = retrain(context, config.training, config.attack.epsilon, config.compute, self._listener)
        self._tell_held_out(context.round_index, training["stability"]["held_out"])

    def _budget(self, round_index: int, excluded: np.ndarray) -> int:
        """B of a round: what is asked for, is left in the budget and is left in the pool."""
        wanted = self._config.query.size if round_index > 0 else self._config.query.initial
        left = self._pool.size - len(excluded)
        if self._config.stop.label_budget is not None:
            left = min(left, self._config.stop.label_budget - (len(excluded) - len(self._rejected)))
        return min(wanted, left)

    def _excluded(self, rounds: int) -> np.ndarray:
        """Sorted ids (n,) int64 that are not in U: set aside, or labeled in the first so many rounds."""
        labeled = [self._run.round(index).labels()["sample_id"].to_numpy() for index in range(rounds)]
        return np.unique(np.concatenate([self._rejected, *labeled]))

    def _tell_recall(self, round_index: int, search: dict[str, Any]) -> None:
        wanted = self._config.neighbors.recall_target
        if search.get("recall", 1.0) < wanted:
            self._journal.notice(
                f"round {round_index}: the {search['engine']} neighbour search found {search['recall']:.2%} "
                f"of the true neighbours, less than neighbors.recall_target={wanted}; "
                "neighbors.engine=auto widens the search by itself, exact finds all"
            )

    def _tell_held_out(self, round_index: int, held_out: int) -> None:
        """Say once that labels are not trained on, or that an early stop has none to go by."""
        before = self._run.round(round_index - 1).training() if round_index > 0 else {}
        was_held_out = before.get("stability", {}).get("held_out")
        if held_out > 0 and not was_held_out:
            self._journal.notice(
                f"round {round_index}: from now on about a tenth of the labels (now {held_out:,}, at most "
                f"training.validation={self._config.training.validation}) are held out to watch the training"
            )
        elif held_out == 0 and was_held_out is None and self._config.training.early_stop is not None:
            self._journal.notice(
                f"round {round_index}: training.early_stop has no effect yet, too few labels to hold any out"
            )

    def _tell_sizes(self, excluded: np.ndarray) -> None:
        rejected = len(self._rejected)
        self._journal.sizes(
            labeled=len(excluded) - rejected, pool=self._pool.size - len(excluded), rejected=rejected
        )

    def _metrics(
        self, round_: RoundDirectory, measured: dict[str, Any], excluded: np.ndarray
    ) -> dict[str, Any]:
        """Everything reported for the round, as metrics.json."""
        training = round_.training()
        labels, scores = round_.labels(), round_.queries()["score"].to_pylist()
        counts = np.bincount(labels["label"].to_numpy(), minlength=self._model.num_classes)
        return {
            "round": round_.index,
            "labeled": len(excluded) - len(self._rejected),
            "pool": self._pool.size - len(excluded),
            "rejected": len(self._rejected),
            "queried": len(labels),
            "queries_by_class": counts.tolist(),
            # Round 0 draws at random: its numbers are no scores.
            "query_scores": scores if round_.index > 0 else [],
            "accuracy": measured["accuracy"],
            "accuracy_by_class": measured["accuracy_by_class"],
            "accuracy_interval": measured["accuracy_interval"],
            "accuracy_interval_by_class": measured["accuracy_interval_by_class"],
            "evaluated": measured["images"],
            "train_accuracy": training["clean_accuracy"],
            "loss": training["loss"],
            "training": training,
            "neighbors": search_summary(round_),
            **costs_by_kind(round_.stage_costs()),
            "time": time.time(),
        }

    def _listed(self, split: Any, expected: int) -> SplitSummary:
        """The manifest of a split: built, completed, or as it is there already."""
        summary = summary_of(self._run, split)
        if summary is not None:
            return summary
        with self._journal.stage(None, f"list {split}") as progress:
            limit = self._config.data.max_rejected_fraction
            try:
                return build_manifest(self._run, self._source, split, limit, progress, expected)
            except TooManyRejectsError as error:
                found = error.summary
                self._journal.sizes(labeled=0, pool=found.size - found.rejected, rejected=found.rejected)
                raise

    def _context(self, round_index: int) -> StageContext:
        return StageContext(
            run_uri=self._run.uri,
            source=self._source,
            model=self._model,
            seed=self._config.seed,
            round_index=round_index,
            batch_size=self._config.model.batch_size,
            compute=self._config.compute,
        )
