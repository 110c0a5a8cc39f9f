"""`dm2at labels` of a run of a service: the same functions that `dm2at_ray.labeling` has for a directory."""

from __future__ import annotations

from typing import Any

from dm2at_ray.remote.address import RemoteRun
from dm2at_ray.remote.importing import import_labels

__all__ = ["import_labels", "labels_history", "labels_status"]


def labels_status(run: RemoteRun) -> dict[str, Any]:
    """Counts of what was asked and said, as `labeling.labels_status` tells them; of 100 people at most."""
    committed = run.client.status(run.name).rounds_committed
    found = run.client.labels(run.name)
    return {
        "rounds": [
            {
                "round": each.round,
                "asked": each.asked,
                "labeled": each.answered - each.skipped,
                "skipped": each.skipped,
                "missing": each.asked - each.answered,
                "accepted": each.accepted,
                "committed": each.round < committed,
            }
            for each in found.rounds
        ],
        "corrections": found.corrections,
        "sources": found.sources,
        "classes": found.classes,
    }


def labels_history(run: RemoteRun, sample_id: int | None = None) -> list[dict[str, Any]]:
    """Every word on a sample, or on all, oldest first, as `labeling.labels_history` tells them.

    `file` is None: a service does not tell the files of its log.
    """
    last: dict[int, str | None] = {}
    rows: list[dict[str, Any]] = []
    for said in run.client.said(run.name, sample_id):
        changed = said.sample_id in last and last[said.sample_id] != said.label
        row = said.model_dump(exclude={"counts"})
        rows.append({**row, "file": None, "was": {"label": last[said.sample_id]} if changed else None})
        last[said.sample_id] = said.label
    return rows
