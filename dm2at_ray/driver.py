"""The driver: Algorithm 2 of Song et al. (Entropy 27(11):1159, 2025) as a loop over stages, round by round.

It holds ids and scores of a few times B samples, never images or features of the pool. All of its state is in
the run directory: a driver that is started again carries on from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.actor import ActorHandle

from dm2at_ray.config import Config
from dm2at_ray.journal import Journal, costs_by_kind
from dm2at_ray.labeling.export import export_queries
from dm2at_ray.models import ModelSpec
from dm2at_ray.oracles import make_oracle, waiting_words
from dm2at_ray.pool import SourceSpec
from dm2at_ray.stages.batches import unlabeled_blocks
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.craft import craft, craft_parts
from dm2at_ray.stages.embed import embed
from dm2at_ray.stages.evaluate import EvaluationPlan, evaluate
from dm2at_ray.stages.labeled_neighbors import find_labeled_neighbors
from dm2at_ray.stages.manifest import (
    SplitSummary,
    TooManyRejectsError,
    build_manifest,
    has_grown,
    summary_of,
)
from dm2at_ray.stages.neighbors import find_neighbors, has_neighbors, search_summary
from dm2at_ray.stages.score import Acquisition, rescore, score
from dm2at_ray.stages.train import retrain
from dm2at_ray.stopping import stop_reason
from dm2at_ray.store import RoundDirectory, RunDirectory


@dataclass(frozen=True)
class Ending:
    """Where a driver has come to the end of what it can do.

    Attributes:
        phase: `done`, or `awaiting_labels` of people.
        reason: Why, in words.
    """

    phase: Literal["done", "awaiting_labels"]
    reason: str


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
        self._oracle = make_oracle(run, config)
        self._pool = SplitSummary(size=0, rejected=0, labeled=0)

    def run(self, sizes: dict[str, int], class_names: list[str]) -> Ending:
        """Play rounds until a stop rule says so, or people are to label.

        Args:
            sizes: Images expected in the splits `pool` and `test`.
            class_names: Of the source; people may have added others to them since.
        """
        if not self._run.class_names():
            self._run.write_class_names(class_names)
        self._listed("pool", sizes["pool"])
        self._test = self._listed("test", sizes["test"])
        while True:
            done = self._run.committed_rounds()
            round_ = self._run.round(len(done))
            self._open_pool(sizes["pool"], may_grow=not round_.begun)
            excluded = self._excluded(len(done))
            unlabeled = self._pool.size - len(excluded)
            self._tell_sizes(excluded)
            reason = stop_reason(self._config.stop, [r.metrics() for r in done], unlabeled)
            if reason is not None:
                self._journal.close("done", reason=reason)
                return Ending("done", reason)
            if not round_.begun:
                round_.begin(self._pool.size)
            if not self._play(round_, excluded):
                reason = waiting_words(self._run, self._config, round_)
                self._journal.close("awaiting_labels", round=round_.index, reason=reason)
                return Ending("awaiting_labels", reason)

    def _play(self, round_: RoundDirectory, excluded: np.ndarray) -> bool:
        """One round, but for what an earlier attempt at it has done; False where it needs labels first."""
        context = self._context(round_.index)
        if not round_.has_queries:
            round_.write_queries(self.select(context, excluded))  # Steps 1 to 4
        query_ids = round_.query_ids()
        if round_.index > 0 and not round_.has_adversarial(craft_parts(len(query_ids), context.batch_size)):
            with self._journal.stage(round_, "craft") as progress:  # Step 5
                craft(context, query_ids, self._config.attack.epsilon, progress)
        if not round_.has_labels:
            if self._config.query.oracle == "files":
                self._export(context, query_ids)
            if not self._label(context, round_):  # Step 6
                return False
            context = self._context(round_.index)
        # Step 7: L and U are what the rounds' labels say
        excluded = self._excluded(round_.index + 1)
        self._tell_sizes(excluded)
        if not round_.has_model:
            with self._journal.stage(round_, "train", unit="steps") as progress:  # Step 8
                self._retrain(context)
                progress(self._labeled, 0)
        if not round_.has_metrics:
            with self._journal.stage(round_, "evaluate") as progress:
                measured = evaluate(context, EvaluationPlan.of(self._config, self._test.size), progress)
            round_.write_metrics(self._metrics(round_, measured, excluded))
        round_.commit()
        self._journal.committed(round_.metrics())
        return True

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

    def _export(self, context: StageContext, query_ids: np.ndarray) -> None:
        """Put the queries before people, once, with the labeled samples that are nearest to each."""
        round_ = context.round
        if round_.has_export:
            return
        with self._journal.stage(round_, "export") as progress:
            if round_.index > 0 and not round_.has_labeled_neighbors:
                known = self._run.labels(round_.index)
                labeled = np.sort(known.filter(known["label"].is_valid())["sample_id"].to_numpy())
                round_.write_labeled_neighbors(
                    find_labeled_neighbors(context, self._config.neighbors, query_ids, labeled)
                )
            exported = export_queries(
                self._run, context.pool().source, self._config.query.export, round_index=round_.index
            )
            round_.write_export(exported.folder)
            progress(len(query_ids), len(query_ids))
        self._journal.notice(
            f"round {round_.index}: {len(query_ids):,} queries to label in {exported.folder}"
        )

    def _label(self, context: StageContext, round_: RoundDirectory) -> bool:
        """Step 6: have the round's queries labeled; False while the oracle has not said enough."""
        answers = self._oracle.answers(round_, context.pool())
        if answers is None:
            return False
        with self._journal.stage(round_, "label") as progress:
            self._tell_news(round_.index, answers.class_names, len(answers.corrections))
            self._run.write_class_names(answers.class_names)
            self._journal.classes(answers.class_names)
            round_.write_corrections(answers.corrections)
            round_.write_labels(answers.labels)
            progress(len(answers.labels), len(answers.labels))
        return True

    def _retrain(self, context: StageContext) -> None:
        config = self._config
        training = retrain(context, config.training, config.attack.epsilon, config.compute, self._listener)
        self._tell_held_out(context.round_index, training["stability"]["held_out"])

    def _budget(self, round_index: int, excluded: np.ndarray) -> int:
        """B of a round: what is asked for, is left in the budget and is left in the pool."""
        wanted = self._config.query.size if round_index > 0 else self._config.query.initial
        left = self._pool.size - len(excluded)
        if self._config.stop.label_budget is not None:
            left = min(left, self._config.stop.label_budget - self._labeled)
        return min(wanted, left)

    def _excluded(self, rounds: int) -> np.ndarray:
        """Sorted ids (n,) int64 that are not in U: set aside, or answered in the first so many rounds.

        Also counts L, and the samples of which people cannot tell the label.
        """
        answered = self._run.labels(rounds)
        self._labeled = pc.sum(answered["label"].is_valid()).as_py() or 0
        self._skipped = len(answered) - self._labeled
        return np.unique(np.concatenate([self._set_aside, answered["sample_id"].to_numpy()]))

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

    def _tell_news(self, round_index: int, class_names: list[str], corrections: int) -> None:
        known = len(self._run.class_names())
        for number, name in enumerate(class_names[known:], known):
            self._journal.notice(f"round {round_index}: class {name} is new, number {number}")
        if corrections:
            self._journal.notice(
                f"round {round_index}: {corrections:,} labels of earlier rounds came or changed since"
            )

    def _tell_sizes(self, excluded: np.ndarray) -> None:
        self._journal.sizes(
            labeled=self._labeled, pool=self._pool.size - len(excluded), rejected=self._pool.rejected
        )

    def _metrics(
        self, round_: RoundDirectory, measured: dict[str, Any], excluded: np.ndarray
    ) -> dict[str, Any]:
        """Everything reported for the round, as metrics.json."""
        training = round_.training()
        labels, scores = round_.labels(), round_.queries()["score"].to_pylist()
        told = labels["label"].drop_null().to_numpy()
        counts = np.bincount(told, minlength=len(self._run.class_names()))
        return {
            "round": round_.index,
            "labeled": self._labeled,
            "pool": self._pool.size - len(excluded),
            "rejected": self._pool.rejected,
            "duplicates": self._pool.duplicates,
            "skipped": self._skipped,
            "corrected": len(round_.corrections()),
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

    def _open_pool(self, expected: int, may_grow: bool) -> None:
        """The pool of a round: a new one has the images that its source has got since the last one."""
        before, self._pool = self._pool, self._listed("pool", expected, may_grow)
        if self._pool == before:
            return
        if before.size:
            self._journal.notice(f"the pool has grown by {self._pool.size - before.size:,} images")
        pool = self._context(0).pool()
        self._set_aside = np.union1d(pool.rejected_ids(), pool.duplicate_ids())

    def _listed(self, split: Any, expected: int, may_grow: bool = False) -> SplitSummary:
        """The manifest of a split: built, completed, or as it is there already."""
        summary = summary_of(self._run, split)
        if summary is not None and not (may_grow and has_grown(self._source, summary)):
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
            model=replace(self._model, num_classes=len(self._run.class_names())),
            seed=self._config.seed,
            round_index=round_index,
            batch_size=self._config.model.batch_size,
            compute=self._config.compute,
            pool_size=self._pool.size,
        )
