"""Step 6 of Algorithm 2: the oracle that gives queries their labels, a column of the source or people."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.config import Config
from dm2at_ray.errors import RunError
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.pool import Pool, SimulatedOracle
from dm2at_ray.store import RoundDirectory, RunDirectory
from dm2at_ray.store.rounds import LABELS_SCHEMA


@dataclass(frozen=True)
class Answers:
    """What the oracle says of a round.

    Attributes:
        labels: Labels of the round's queries (`LABELS_SCHEMA`): null where nobody can tell; a query that
            nobody has answered has no row, and goes back to U.
        corrections: Labels of earlier rounds' queries that came or changed since (`LABELS_SCHEMA`).
        class_names: The run's classes, those that came with these labels last.
    """

    labels: pa.Table
    corrections: pa.Table
    class_names: list[str]


class Oracle(ABC):
    """Answers queries."""

    @abstractmethod
    def answers(self, round_: RoundDirectory, pool: Pool) -> Answers | None:
        """Answer the queries of a round.

        Args:
            round_: The round, whose queries are chosen.
            pool: The images.

        Returns:
            None while there are not answers enough.
        """


class SourceOracle(Oracle):
    """The oracle of a closed loop: reveals the labels of the source, with mistakes if they are asked for.

    Args:
        run: The run directory.
        config: Of the run.
    """

    def __init__(self, run: RunDirectory, config: Config) -> None:
        self._run = run
        self._config = config

    def answers(self, round_: RoundDirectory, pool: Pool) -> Answers:
        """The labels of all queries."""
        names, ids = self._run.class_names(), round_.query_ids()
        oracle = SimulatedOracle(pool, self._config.query.label_noise, len(names), self._config.seed)
        labels = pa.table(
            {
                "sample_id": ids,
                "label": oracle.label(ids),
                "source": ["simulated"] * len(ids),
                "time": [datetime.now(timezone.utc)] * len(ids),
            }
        )
        return Answers(labels, LABELS_SCHEMA.empty_table(), names)


class PeopleOracle(Oracle):
    """People, whose labels come by `dm2at labels import` at any time, in parts, and corrected.

    Args:
        run: The run directory.
        config: Of the run.
    """

    def __init__(self, run: RunDirectory, config: Config) -> None:
        self._run = run
        self._book = LabelBook(run)
        self._sufficient = config.query.sufficient

    def answers(self, round_: RoundDirectory, pool: Pool | None = None) -> Answers | None:
        """The labels that are there, when they suffice or somebody said that they do.

        Raises:
            RunError: They suffice, and none of them says anything.
        """
        ids = round_.query_ids()
        given = self._book.effective(ids)
        if len(given) < needed_answers(self._sufficient, len(ids)) and not self._book.is_accepted(
            round_.index
        ):
            return None
        asked_before = [self._run.round(index).query_ids() for index in range(round_.index)]
        earlier = self._book.effective(np.concatenate(asked_before) if asked_before else [])
        names = _with_new_classes(self._run.class_names(), pa.concat_tables([earlier, given]))
        labels, corrections = _numbered(given, names), self._changes(round_.index, _numbered(earlier, names))
        if round_.index == 0 and not pc.any(labels["label"].is_valid()).as_py():
            raise RunError(
                f"run directory {self._run.uri}: of the {len(ids):,} queries of round 0 none has a label, so "
                "there is nothing to train on; import labels (`dm2at labels import`), a later one counts"
            )
        return Answers(labels, corrections, names)

    def missing(self, round_: RoundDirectory) -> tuple[int, int]:
        """Answers that a round has, and those that it needs."""
        ids = round_.query_ids()
        return len(self._book.effective(ids)), needed_answers(self._sufficient, len(ids))

    def _changes(self, round_index: int, earlier: pa.Table) -> pa.Table:
        known = self._run.labels(round_index)
        before = dict(zip(known["sample_id"].to_pylist(), known["label"].to_pylist(), strict=True))
        changed = [
            sample_id not in before or before[sample_id] != label
            for sample_id, label in zip(
                earlier["sample_id"].to_pylist(), earlier["label"].to_pylist(), strict=True
            )
        ]
        return earlier.filter(pa.array(changed, pa.bool_()))


def needed_answers(sufficient: float, queries: int) -> int:
    """Answers that a run needs to go on.

    Args:
        sufficient: `query.sufficient` of its config.
        queries: How many the round has.

    Examples:
        >>> needed_answers(0.7, 10)
        7
    """
    # 0.7 * 10 is a little more than 7.
    return max(1, math.ceil(sufficient * queries - 1e-9))


def make_oracle(run: RunDirectory, config: Config) -> Oracle:
    """The oracle that `query.oracle` names."""
    return {"simulated": SourceOracle, "files": PeopleOracle}[config.query.oracle](run, config)


def awaited_round(run: RunDirectory, config: Config) -> RoundDirectory | None:
    """The round whose queries people have not answered yet, so far as needed; None where none is awaited."""
    if config.query.oracle != "files" or run.status().get("phase") != "awaiting_labels":
        return None
    open_rounds = [r for r in run.rounds() if not r.committed and r.has_queries and not r.has_labels]
    if not open_rounds or PeopleOracle(run, config).answers(open_rounds[0]) is not None:
        return None
    return open_rounds[0]


def waiting_words(run: RunDirectory, config: Config, round_: RoundDirectory) -> str:
    """What a round waits for, for a person."""
    there, needed = PeopleOracle(run, config).missing(round_)
    queries = len(round_.query_ids())
    of = f"{queries:,} queries" if needed == queries else f"{needed:,} of {queries:,} queries"
    return f"labels of {of} of round {round_.index}, {there:,} are there; `dm2at labels import` takes them"


def _with_new_classes(names: list[str], records: pa.Table) -> list[str]:
    """The classes with those appended that labels name for the first time, in the order of these labels."""
    ordered = records.sort_by([("time", "ascending"), ("sample_id", "ascending")])
    labels = ordered["label"].drop_null().unique().to_pylist()
    return [*names, *(label for label in labels if label not in names)]


def _numbered(records: pa.Table, names: list[str]) -> pa.Table:
    numbers = pc.index_in(records["label"], pa.array(names, pa.string()))
    return pa.table(
        {
            "sample_id": records["sample_id"],
            # `index_in` finds a null nowhere, which is what is wanted.
            "label": numbers.cast(pa.int64()),
            "source": records["source"],
            "time": records["time"],
        }
    )
