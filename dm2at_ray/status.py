"""`dm2at status`: the live word of the driver actor where it can be reached, else the run directory's."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from dm2at_ray.oracles import waiting_words
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.lease import LIFETIME_SECONDS, is_here, read_lease
from dm2at_ray.uri import absolute_uri

ENDED = ("done", "failed", "interrupted", "awaiting_labels")
_NO_DRIVER = (*ENDED, "submitted", "pending", "paused", "stopped")
"""Phases in which none is to be expected; a service tells the last four."""
ANSWER_SECONDS = 10.0


def read_status(run_dir: str) -> dict[str, Any]:
    """Where a run is.

    Args:
        run_dir: Path or URI of the run directory.

    Returns:
        status.json's fields (phase, round, stage with done, total and unit, labeled, pool, ...); `live`,
        whether the driver itself answered; `driver_host`, where a driver was at work within the last minute
        that cannot be asked from here; `rounds`, the metrics of the committed rounds;
        `seconds_ago`, the age of the word.

    Raises:
        RunError: There is no run.
    """
    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    found = run.status() or {"phase": "starting", "round": 0, "stage": "", "time": time.time()}
    holder = {} if found["phase"] in ENDED else read_lease(run.files)
    if holder and time.time() - holder["time"] > LIFETIME_SECONDS:
        holder = {}
    live = _ask_driver(run, holder["contact"]) if holder else None
    elsewhere = live is None and bool(holder) and not is_here(holder)
    found = {**found, **(live or {}), "live": live is not None}
    found["driver_host"] = holder["host"] if elsewhere else None
    if found["phase"] == "awaiting_labels":
        # The labels that came since the driver left are in the book only.
        found["reason"] = waiting_words(run, run.config(), run.round(found["round"]))
    found["seconds_ago"] = round(max(0.0, time.time() - found["time"]), 1)
    found["rounds"] = [r.metrics() for r in run.committed_rounds()]
    return found


def status_lines(found: dict[str, Any]) -> list[str]:
    """What `read_status` found, here or of a service, for a person."""
    where = f"round {found['round']}" + (f", {found['stage']}" if found["stage"] else "")
    if (found["live"] or found.get("driver_host")) and found["stage"] and found.get("total"):
        where += f", {found['done']:,} of {found['total']:,} {found['unit']}"
    lines = [f"{found['phase']}: {found.get('reason') or where}"]
    if "labeled" in found:
        lines.append(f"{found['labeled']:,} labeled, {found['pool']:,} unlabeled")
    if found["live"] and found.get("metrics_url"):
        lines.append(f"metrics: {found['metrics_url']}")
    if found.get("driver_host"):
        lines.append(
            f"a driver on {found['driver_host']} works on it, which cannot be asked from here "
            f"(last word {found['seconds_ago']:.0f} s ago)"
        )
    elif not found["live"] and found["phase"] not in _NO_DRIVER:
        lines.append(
            f"no driver answers (last word {found['seconds_ago']:.0f} s ago): `dm2at run` goes on from there"
        )
    return lines


def _ask_driver(run: RunDirectory, contact: dict[str, str]) -> dict[str, Any] | None:
    """The driver's own status; None where it cannot be reached."""
    # Ray reads it when it is imported; in the wrong mode the join would be refused, at length.
    if contact.get("auth_mode"):
        os.environ.setdefault("RAY_AUTH_MODE", contact["auth_mode"])
    import ray

    from dm2at_ray.actor import NAMESPACE, driver_name
    from dm2at_ray.local_ray import answers, has_node_here, on_loopback

    address = contact.get("address", "")
    was_joined = ray.is_initialized()
    if not was_joined and not (has_node_here(address) and answers(address)):
        return None
    try:
        if not was_joined:
            with on_loopback(address):
                ray.init(
                    address=address,
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
