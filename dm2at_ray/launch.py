"""Start a run, follow it, and end it cleanly: what `dm2at run` and `dm2at_ray.run` do."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from dm2at_ray.actor import NAMESPACE, Outcome, start_driver
from dm2at_ray.config import Config
from dm2at_ray.config_sections import Section
from dm2at_ray.driver import Ending
from dm2at_ray.errors import RunError
from dm2at_ray.local_ray import on_loopback
from dm2at_ray.monitoring.progress import ProgressView, make_progress
from dm2at_ray.oracles import awaited_round, waiting_words
from dm2at_ray.preflight import check, check_resources
from dm2at_ray.store import RunDirectory
from dm2at_ray.uri import absolute_uri

LOOK_SECONDS = 0.3
LABELS_SECONDS = 5.0

logger = logging.getLogger(__name__)

LOCAL_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # An idle process with torch imported saves the next stage several seconds; Ray would end it after one.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    # Processes that live as long are to give back what a piece of work has used: few heaps, which
    # `StageContext.begin_piece` can trim, and Arrow's memory among them.
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Environment of a Ray that is started here, where it is not set otherwise."""


@dataclass(frozen=True)
class RunResult:
    """How far a run has got.

    Attributes:
        run_dir: Path or URI of its directory.
        reason: Why it ended, or what it waits for.
        rounds: `metrics.json` of each round, in order.
        phase: `done`, or `awaiting_labels` of people.
    """

    run_dir: str
    reason: str
    rounds: list[dict[str, Any]]
    phase: str = "done"


def run(
    config: Config,
    run_dir: str | Path | None = None,
    *,
    wait: bool = False,
    progress: ProgressView | None = None,
) -> RunResult:
    """Play active-learning rounds until a stop rule says so; go on where an earlier call was cut off.

    Where people label (`query.oracle: files`) it returns as soon as a round waits for them, and goes on from
    there when it is called again, or by itself with `wait`. Meanwhile nothing of Ray is held.

    Ray is used as it is found: the session that this process has, the cluster that `RAY_ADDRESS` names, or a
    new one on this machine, which ends with the call.

    Args:
        config: The run.
        run_dir: Where it is kept: a local path or a URI such as s3://bucket/run; `runs/<name>` if left out.
        wait: Whether to look for labels every few seconds rather than to return without them.
        progress: Where to show it; stdout if left out.

    Returns:
        Why it ended, and the metrics of its rounds.

    Raises:
        UserError: Something to mend, in one line: the config, the pool, the model or the run directory.
        KeyboardInterrupt: Stopped by the user; committed rounds stay, nothing keeps running.

    Examples:
        >>> from dm2at_ray import Config, run
        >>> result = run(Config.load("configs/quickstart.yaml"), "runs/quickstart")  # doctest: +SKIP
        >>> result.rounds[-1]["accuracy"]["clean"]  # doctest: +SKIP
        0.97
    """
    directory = RunDirectory(absolute_uri(str(run_dir or f"runs/{config.name}")))
    config = with_absolute_paths(config)
    directory.check_config(config)
    with progress or make_progress(sys.stdout) as view:
        while True:
            status = directory.status()
            if status.get("phase") == "done":
                return _result(directory, Ending("done", status["reason"]))
            awaited = awaited_round(directory, config)
            if awaited is None:
                ending = _play(config, directory, view)
                if ending.phase == "done" or not wait:
                    return _result(directory, ending)
                view.message(f"waiting for {ending.reason}")
            elif not wait:
                reason = waiting_words(directory, config, awaited)
                return _result(directory, Ending("awaiting_labels", reason))
            else:
                time.sleep(LABELS_SECONDS)


def _play(config: Config, directory: RunDirectory, view: ProgressView) -> Ending:
    """Have a driver play as far as it can."""
    plan = check(config, directory)
    with joined_ray(config):
        check_resources(config, ray.cluster_resources())
        view.message(f"run directory: {directory.uri}")
        actor = start_driver(config, plan, directory, owner=uuid.uuid4().hex)
        try:
            outcome: Outcome = follow(actor.run.remote(), actor, view)
        except BaseException:
            _end(actor)
            raise
    if outcome.ending is None:
        raise RunError(outcome.failure or "")
    return outcome.ending


def with_absolute_paths(config: Config) -> Config:
    """The same run for whoever reads its config elsewhere: a later report, a later call to go on."""

    def resolved(section: Section, *fields: str) -> Any:
        paths = {field: getattr(section, field) for field in fields}
        return section.model_copy(update={f: path and absolute_uri(path) for f, path in paths.items()})

    data, model = resolved(config.data, "path", "test_path"), resolved(config.model, "weights")
    return config.model_copy(update={"data": data, "model": model})


def _result(directory: RunDirectory, ending: Ending) -> RunResult:
    rounds = [r.metrics() for r in directory.committed_rounds()]
    return RunResult(directory.uri, ending.reason, rounds, ending.phase)


@contextmanager
def joined_ray(config: Config) -> Iterator[None]:
    """Ray for the time of a run; one that was started here ends here, and its chatter stays in its log files.

    RAY_AUTH_MODE is left alone: where it is unset, Ray makes a token and turns token authentication on by
    itself, which setting it here, after Ray was imported, would prevent.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        for variable, value in LOCAL_RAY.items():
            os.environ.setdefault(variable, value)
    with redirect_stdout(_ChatterLog()):
        try:
            with _sigterm_kept(), on_loopback(address):
                ray.init(
                    address=address or "local",
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                    include_dashboard=None if address else False,
                    num_cpus=None if address else config.compute.cpus,
                    object_store_memory=None if address else config.compute.object_store_bytes,
                )
            yield
        finally:
            ray.shutdown()


class _ChatterLog(io.TextIOBase):
    """Where Ray's notes on its housekeeping go, which it prints to stdout with or without `log_to_driver`."""

    def write(self, text: str) -> int:
        """Keep a text in the debug log."""
        if text.strip():
            logger.debug("%s", text.rstrip())
        return len(text)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself while it is joined; whoever handled it before goes on doing so."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:
        # Ray's own answer to a SIGTERM while it starts.
        handler(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def follow(running: ray.ObjectRef, actor: Any, view: ProgressView) -> Any:
    """Show what an actor is at until it is done; one that died is started again by Ray, and goes on.

    Args:
        running: The call to wait for.
        actor: Has a method `snapshot`, which answers meanwhile.
        view: Where to show it.

    Returns:
        What the call returned.
    """
    while True:
        ended, _ = ray.wait([running], timeout=LOOK_SECONDS)
        snapshot = actor.snapshot.remote()
        if ray.wait([snapshot], timeout=LOOK_SECONDS)[0]:
            try:
                view.update(ray.get(snapshot))
            except ray.exceptions.RayActorError:
                # Between a death and the restart nobody answers; whether it is the end, `running` says.
                time.sleep(LOOK_SECONDS)
        if ended:
            return ray.get(running)


def _end(actor: Any) -> None:
    """Let the driver note that it is ended, then end it: Ray takes its tasks and actors with it."""
    try:
        ray.get(actor.interrupt.remote(), timeout=5)
    except ray.exceptions.RayError:
        logger.debug("the driver was gone already", exc_info=True)
    ray.kill(actor)
