"""The driver: Algorithm 2 of Song et al. (Entropy 27(11):1159, 2025) as a loop over stages, round by round.

It holds ids and scores of a few times B samples, never images or features of the pool. All of its state is in
the run directory: a driver that is started again carries on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from ray.actor import ActorHandle

from dm2at_ray.config import Config
from dm2at_ray.journal import Journal
from dm2at_ray.labeling.export import export_queries
from dm2at_ray.models import ModelSpec
from dm2at_ray.oracles import make_oracle, waiting_words
from dm2at_ray.pool import SourceSpec
from dm2at_ray.round_record import held_out_notices, label_notices, recall_notices, round_metrics
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
from dm2at_ray.stages.neighbors import find_neighbors, has_neighbors
from dm2at_ray.stages.score import Acquisition, rescore, score
from dm2at_ray.stages.train import retrain
from dm2at_ray.standing import Standing
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
            standing = self._standing(len(done))
            reason = stop_reason(self._config.stop, [r.metrics() for r in done], standing.unlabeled)
            if reason is not None:
                self._journal.close("done", reason=reason)
                return Ending("done", reason)
            if not round_.begun:
                round_.begin(self._pool.size)
            if not self._play(round_, standing):
                reason = waiting_words(self._run, self._config, round_)
                self._journal.close("awaiting_labels", round=round_.index, reason=reason)
                return Ending("awaiting_labels", reason)

    def _play(self, round_: RoundDirectory, standing: Standing) -> bool:
        """One round, but for what an earlier attempt at it has done; False where it needs labels first."""
        context = self._context(round_.index)
        if not round_.has_queries:
            round_.write_queries(self.select(context, standing))  # Steps 1 to 4
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
        standing = self._standing(round_.index + 1)  # Step 7: L and U are what the rounds' labels say
        if not round_.has_model:
            with self._journal.stage(round_, "train", unit="steps") as progress:  # Step 8
                self._retrain(context)
                progress(standing.labeled, 0)
        if not round_.has_metrics:
            with self._journal.stage(round_, "evaluate") as progress:
                measured = evaluate(context, EvaluationPlan.of(self._config, self._test.size), progress)
            classes = len(self._run.class_names())
            round_.write_metrics(round_metrics(round_, standing, measured, classes))
        round_.commit()
        self._journal.committed(round_.metrics())
        return True

    def select(self, context: StageContext, standing: Standing) -> pa.Table:
        """Steps 1 to 4: the queries of the round, best first; round 0 draws them at random."""
        round_ = context.round
        acquisition = Acquisition.of(self._config, strategy="random" if round_.index == 0 else None)
        strategy = acquisition.make()
        budget, excluded = standing.budget(self._config, round_.index), standing.excluded
        size, rows = standing.pool.size, context.compute.block_rows
        blocks = unlabeled_blocks(size, rows, context.batch_size, excluded)
        k = min(self._config.neighbors.k, standing.unlabeled - 1)
        features = None
        if strategy.needs_features or strategy.needs_neighbors or strategy.needs_images:
            with self._journal.stage(round_, "embed") as progress:  # Step 1
                features = embed(context, blocks, excluded, progress)
        if features and strategy.needs_neighbors and k > 0 and not has_neighbors(context, blocks):
            with self._journal.stage(round_, "neighbors") as progress:  # Step 2
                found = find_neighbors(context, self._config.neighbors, features, k, progress)
                self._tell(recall_notices(round_.index, self._config, found))
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
            names, corrections = answers.class_names, len(answers.corrections)
            self._tell(label_notices(round_.index, len(self._run.class_names()), names, corrections))
            self._run.write_class_names(answers.class_names)
            self._journal.classes(answers.class_names)
            round_.write_corrections(answers.corrections)
            round_.write_labels(answers.labels)
            progress(len(answers.labels), len(answers.labels))
        return True

    def _retrain(self, context: StageContext) -> None:
        config = self._config
        training = retrain(context, config.training, config.attack.epsilon, config.compute, self._listener)
        held_out = training["stability"]["held_out"]
        self._tell(held_out_notices(self._run, context.round_index, config, held_out))

    def _standing(self, rounds: int) -> Standing:
        """L and U after the labels of the first so many rounds, which is told, too."""
        standing = Standing.after(rounds, self._run, self._pool, self._set_aside)
        self._journal.sizes(
            labeled=standing.labeled, pool=standing.unlabeled, rejected=standing.pool.rejected
        )
        return standing

    def _tell(self, notices: Iterable[str]) -> None:
        for notice in notices:
            self._journal.notice(notice)

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
