"""`dm2at labels status` and `history`: what was asked, what was said, and by whom."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa

from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.labeling.importing import asked_samples
from dm2at_ray.store import RunDirectory


def labels_status(run: RunDirectory) -> dict[str, Any]:
    """Counts of the log.

    Returns:
        `rounds`: of each round with queries its index, asked, labeled, skipped ("cannot tell"), missing,
        accepted (with what is there) and committed; `corrections`: words that changed an earlier one;
        `sources`: who -> how many samples their word counts for; `classes`: name -> how many samples have it.
    """
    book = LabelBook(run)
    effective = book.effective()
    labels = dict(zip(effective["sample_id"].to_pylist(), effective["label"].to_pylist(), strict=True))
    by_round: dict[int, list[int]] = defaultdict(list)
    for sample, round_index in asked_samples(run).items():
        by_round[round_index].append(sample)
    rounds = []
    for index, samples in sorted(by_round.items()):
        said = [labels[sample] for sample in samples if sample in labels]
        rounds.append(
            {
                "round": index,
                "asked": len(samples),
                "labeled": len(said) - said.count(None),
                "skipped": said.count(None),
                "missing": len(samples) - len(said),
                "accepted": book.is_accepted(index),
                "committed": run.round(index).committed,
            }
        )
    return {
        "rounds": rounds,
        "corrections": sum(row["was"] is not None for row in labels_history(run)),
        "sources": dict(Counter(effective["source"].to_pylist())),
        "classes": dict(Counter(label for label in labels.values() if label is not None)),
    }


def labels_history(run: RunDirectory, sample_id: int | None = None) -> list[dict[str, Any]]:
    """Every word in the log, of one sample or of all, oldest first.

    Returns:
        Rows of sample_id, label (None for "cannot tell"), round, source, time, file, and `was`: None where
        the word is the first on its sample or repeats what counted, else a dict of the label that it changed.
    """
    last: dict[int, str | None] = {}
    rows: list[dict[str, Any]] = []
    records: pa.Table = LabelBook(run).records()
    for row in records.to_pylist():
        sample, label = row["sample_id"], row["label"]
        changed = sample in last and last[sample] != label
        rows.append({**row, "was": {"label": last[sample]} if changed else None})
        last[sample] = label
    return [row for row in rows if sample_id is None or row["sample_id"] == sample_id]
