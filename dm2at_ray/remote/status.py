"""`dm2at status` of a run of a service."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from dm2at_ray.remote.address import RemoteRun


def read_status(url: str) -> dict[str, Any]:
    """Where a run is, as `dm2at_ray.status.read_status` tells it of a directory.

    `phase` may also be submitted, pending, paused or stopped, `live` says whether the service hears the
    driver, and `advance`, `job` and `awaiting` tell what only a service knows.

    Raises:
        UserError: There is no such run, or the service does not answer.
    """
    run = RemoteRun.at(url)
    status = run.client.status(run.name)
    said = status.model_dump(mode="json")
    ago = (datetime.now(timezone.utc) - status.time).total_seconds()
    same = ("round", "stage", "labeled", "done", "total", "unit", "reason", "advance", "job", "awaiting")
    return {
        "phase": status.state,
        **{name: said[name] for name in same},
        "pool": status.unlabeled,
        "time": status.time.timestamp(),
        "live": status.driver_lives and status.state == "running",
        "driver_host": None,
        "seconds_ago": round(max(0.0, ago), 1),
        "rounds": [each.metrics for each in run.client.rounds(run.name)],
    }
