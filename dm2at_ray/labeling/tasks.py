"""What a person is asked in a round: each query with what helps to answer it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dm2at_ray.errors import LabelError, PoolError
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.pool.manifest import PART_ROWS, read_columns
from dm2at_ray.store import RoundDirectory, RunDirectory


@dataclass(frozen=True)
class Neighbor:
    """A labeled sample near a query.

    Attributes:
        sample_id: Its id in the pool.
        distance: Its distance from the query in the features of the round's model.
        label: The name of its class.
        uri: Where its image is.
        row: Its row there.
    """

    sample_id: int
    distance: float
    label: str
    uri: str
    row: int


@dataclass(frozen=True)
class Task:
    """A query as a person is asked it.

    Attributes:
        sample_id: Its id in the pool.
        round: The round that asks.
        rank: Its place among the queries, best first.
        score: Its acquisition score; None in round 0, which draws at random.
        uri: Where its image is.
        row: Its row there.
        predicted: Name of the class that the model takes it for; None where no model has seen it.
        neighbors: The labeled samples nearest to it, nearest first.
        answered: Whether somebody has answered already.
        label: The name that was given already; None for "cannot tell", or where nobody has answered.
    """

    sample_id: int
    round: int
    rank: int
    score: float | None
    uri: str
    row: int
    predicted: str | None
    neighbors: tuple[Neighbor, ...]
    answered: bool
    label: str | None


def awaiting_round(run: RunDirectory) -> RoundDirectory | None:
    """The round that awaits labels: the last one, where its queries are chosen and it is not final."""
    last = run.rounds()[-1:]
    return last[0] if last and last[0].has_queries and not last[0].committed else None


def asked_round(run: RunDirectory, index: int | None = None) -> RoundDirectory:
    """The round of this index, else the one that awaits labels.

    Raises:
        LabelError: It has no queries; or none awaits labels.
    """
    if index is None:
        round_ = awaiting_round(run)
        if round_ is None:
            raise LabelError(
                f"run directory {run.uri}: no round awaits labels now; name an earlier one with --round, or "
                "let `dm2at run` choose the next queries"
            )
        return round_
    if not run.round(index).has_queries:
        chosen = [str(r.index) for r in run.rounds() if r.has_queries]
        raise LabelError(
            f"--round {index}: it has no queries; rounds with queries: {', '.join(chosen) or 'none yet'}"
        )
    return run.round(index)


def query_tasks(run: RunDirectory, round_: RoundDirectory, *, neighbors: bool = True) -> list[Task]:
    """The tasks of a round, best query first.

    Args:
        run: The run directory.
        round_: One with queries.
        neighbors: Whether to look up the labeled neighbours of each; none are known where the round has no
            `context.parquet`.

    Raises:
        PoolError: The pool's manifest cannot be read.
    """
    queries = round_.queries()
    ids = queries["sample_id"].to_pylist()
    given = label_names(run, ids)
    near = _neighbors(run, round_) if neighbors else {}
    places = image_places(run, [*ids, *(each for found in near.values() for each, _ in found)])
    names = label_names(run, {each for found in near.values() for each, _ in found})
    classes = run.class_names()
    return [
        Task(
            sample_id=sample_id,
            round=round_.index,
            rank=rank,
            score=score if round_.index > 0 else None,
            uri=places[sample_id][0],
            row=places[sample_id][1],
            predicted=None if predicted is None else classes[predicted],
            neighbors=tuple(
                Neighbor(each, distance, str(names[each]), *places[each])
                for each, distance in near.get(sample_id, [])
                if names.get(each) is not None
            ),
            answered=sample_id in given,
            label=given.get(sample_id),
        )
        for sample_id, rank, score, predicted in zip(
            ids,
            queries["rank"].to_pylist(),
            queries["score"].to_pylist(),
            queries["predicted_label"].to_pylist(),
            strict=True,
        )
    ]


def known_classes(run: RunDirectory, book: LabelBook | None = None) -> list[str]:
    """Names of the classes, with those that labels have added since a round was last begun."""
    said = (book or LabelBook(run)).effective()["label"].unique().drop_null().to_pylist()
    return list(dict.fromkeys([*run.class_names(), *sorted(said)]))


def label_names(
    run: RunDirectory, sample_ids: Iterable[int], book: LabelBook | None = None
) -> dict[int, str | None]:
    """What samples are labeled as now, by name; None where nobody could tell.

    What people said counts over what the rounds were trained with, as it may be newer.

    Args:
        run: The run directory.
        sample_ids: Samples to look for; those without a label have no entry.
        book: The run's log, where it is open already.
    """
    wanted = np.fromiter(sample_ids, np.int64)
    classes = run.class_names()
    names: dict[int, str | None] = {}
    for round_ in run.rounds() if len(wanted) else ():
        if round_.has_labels:
            table = _of_samples(round_.labels(), wanted)
            for sample_id, label in zip(
                table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True
            ):
                names[sample_id] = classes[label] if isinstance(label, int) else label
    said = (book or LabelBook(run)).effective(wanted)
    names.update(zip(said["sample_id"].to_pylist(), said["label"].to_pylist(), strict=True))
    return names


def _neighbors(run: RunDirectory, round_: RoundDirectory) -> dict[int, list[tuple[int, float]]]:
    """Query -> ids and distances of its nearest labeled samples."""
    if not round_.files.exists("context.parquet"):
        return {}
    table = round_.files.read_table("context.parquet")
    return {
        sample_id: list(zip(ids or [], distances or [], strict=True))
        for sample_id, ids, distances in zip(
            table["sample_id"].to_pylist(),
            table["labeled_neighbor_ids"].to_pylist(),
            table["labeled_neighbor_distances"].to_pylist(),
            strict=True,
        )
    }


def image_places(run: RunDirectory, sample_ids: Iterable[int]) -> dict[int, tuple[str, int]]:
    """Sample -> uri and row of its image; reads the parts of the manifest that they are in, and no other.

    Raises:
        PoolError: The manifest has no such sample, or cannot be read.
    """
    files = run.manifest_files("pool")
    ids = np.unique(np.fromiter(sample_ids, np.int64))
    places: dict[int, tuple[str, int]] = {}
    parts, starts = np.unique(ids // PART_ROWS, return_index=True)
    for part, some in zip(parts.tolist(), np.split(ids, starts[1:]) if len(ids) else [], strict=True):
        table = read_columns(files.filesystem, files.root, part, ["uri", "row"])
        rows = some % PART_ROWS
        if part < 0 or rows[-1] >= table.num_rows:
            raise PoolError(f"pool manifest {files.root!r}: it has no sample {some[-1]}; start the run anew")
        table = table.take(rows)
        found = zip(table["uri"].to_pylist(), table["row"].to_pylist(), strict=True)
        places.update(zip(some.tolist(), found, strict=True))
    return places


def _of_samples(table: pa.Table, sample_ids: np.ndarray) -> pa.Table:
    return table.filter(pa.array(np.isin(table["sample_id"].to_numpy(), sample_ids)))
