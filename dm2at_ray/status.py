"""`dm2at status`: the live word of the driver actor where it can be reached, else the run directory's."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from dm2at_ray.store import RunDirectory
from dm2at_ray.store.lease import LIFETIME_SECONDS, read_lease
from dm2at_ray.uri import absolute_uri

ENDED = ("done", "failed", "interrupted")
ANSWER_SECONDS = 10.0


def read_status(run_dir: str) -> dict[str, Any]:
    """Where a run is.

    Args:
        run_dir: Path or URI of the run directory.

    Returns:
        status.json's fields (phase, round, stage, labeled, pool, ...); `live`, whether the driver itself
        answered (then also done, total and unit of the stage); `rounds`, the metrics of the committed rounds;
        `seconds_ago`, the age of the word.

    Raises:
        RunError: There is no run.
    """
    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    found = run.status() or {"phase": "starting", "round": 0, "stage": "", "time": time.time()}
    live = None if found["phase"] in ENDED else _ask_driver(run)
    found = {**found, **(live or {}), "live": live is not None}
    found["seconds_ago"] = round(max(0.0, time.time() - found["time"]), 1)
    found["rounds"] = [r.metrics() for r in run.committed_rounds()]
    return found


def status_lines(found: dict[str, Any]) -> list[str]:
    """What `read_status` found, for a person."""
    where = f"round {found['round']}" + (f", {found['stage']}" if found["stage"] else "")
    if found["live"] and found.get("total"):
        where += f", {found['done']:,} of {found['total']:,} {found['unit']}"
    lines = [f"{found['phase']}: {found.get('reason') or where}"]
    if "labeled" in found:
        lines.append(f"{found['labeled']:,} labeled, {found['pool']:,} unlabeled")
    if found["live"] and found.get("metrics_url"):
        lines.append(f"metrics: {found['metrics_url']}")
    if not found["live"] and found["phase"] not in ENDED:
        lines.append(
            f"no driver answers (last word {found['seconds_ago']:.0f} s ago): `dm2at run` goes on from there"
        )
    return lines


def _ask_driver(run: RunDirectory) -> dict[str, Any] | None:
    """The driver's own status; None where it cannot be reached."""
    holder = read_lease(run.files)
    if not holder or time.time() - holder["time"] > LIFETIME_SECONDS:
        return None
    contact = holder["contact"]
    # Ray reads it when it is imported; in the wrong mode the join would be refused, at length.
    if contact.get("auth_mode"):
        os.environ.setdefault("RAY_AUTH_MODE", contact["auth_mode"])
    from dm2at_ray.loopback import answers, on_loopback

    if not answers(contact.get("address", "")):
        return None
    import ray

    from dm2at_ray.actor import NAMESPACE, driver_name

    was_joined = ray.is_initialized()
    try:
        if not was_joined:
            with on_loopback(contact["address"]):
                ray.init(
                    address=contact["address"],
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
        actor = ray.get_actor(driver_name(run.uri), namespace=NAMESPACE)
        return ray.get(actor.status.remote(), timeout=ANSWER_SECONDS)
    except (ValueError, ConnectionError, RuntimeError, ray.exceptions.RayError):
        # Gone between the two looks, or on a cluster that this process may not join: the files have the rest.
        return None
    finally:
        if not was_joined:
            ray.shutdown()
