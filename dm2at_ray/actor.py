"""The driver as a named, restartable Ray actor: it can be asked while it works, and survives being killed."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dm2at_ray.config import Config
from dm2at_ray.driver import Driver, Ending
from dm2at_ray.errors import RunError, UserError
from dm2at_ray.journal import Journal
from dm2at_ray.monitoring.push import Pusher
from dm2at_ray.monitoring.server import MetricsServer
from dm2at_ray.monitoring.snapshot import Snapshot
from dm2at_ray.preflight import Plan
from dm2at_ray.store import Lease, RunDirectory
from dm2at_ray.store.lease import RENEW_SECONDS

NAMESPACE = "dm2at"
MAX_RESTARTS = 20
"""Times that Ray starts a driver again that has died; it resumes from the run directory."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        ending: How far it got; None when it failed.
        failure: One line that the user can act on; None when it did not fail.
    """

    ending: Ending | None = None
    failure: str | None = None


def driver_name(run_uri: str) -> str:
    """Name of the actor that drives a run directory, one for each within a cluster."""
    return f"driver-{hashlib.sha256(run_uri.encode()).hexdigest()[:16]}"


class DriverActor:
    """Holds the lease on the run directory and plays the rounds.

    Args:
        config: Of the run.
        plan: What the preflight found.
        run_uri: The run directory.
        owner: Names this driver and its restarts in the lease.
        contact: Where Ray can be asked for the actor, for `dm2at status`.
    """

    def __init__(self, config: Config, plan: Plan, run_uri: str, owner: str, contact: dict[str, str]) -> None:
        self._config = config
        self._plan = plan
        self._run = RunDirectory(run_uri)
        self._lease = Lease(self._run.files, owner, contact)
        self._journal = self.make_journal()
        self._ended = threading.Event()

    def make_journal(self) -> Journal:
        """Where the driver tells how far it is."""
        # People may have added classes since.
        names = self._run.class_names() or self._plan.class_names
        return Journal(self._run, self._config, names)

    def run(self) -> Outcome:
        """Play all rounds that are left; what the user can mend comes back as an outcome, a bug as itself."""
        try:
            self._lease.acquire(self._journal.notice)
            self._run.check_config(self._config)
        except RunError as error:
            return Outcome(failure=str(error))
        threading.Thread(target=self._keep_lease, daemon=True).start()
        self._run.write_config(self._config)
        driver = Driver(
            self._config,
            self._run,
            self._plan.source,
            self._plan.model,
            self._journal,
            ray.get_runtime_context().current_actor,
        )
        self._journal.restore()
        self._tell_surroundings()
        server = pusher = None
        settings = self._config.monitoring
        try:
            server = self._serve_metrics()
            pusher = self._push_metrics()
            return Outcome(ending=driver.run(self._plan.sizes, self._plan.class_names))
        except Exception as error:
            user_error = find_user_error(error)
            line = str(user_error) if user_error else f"{type(error).__name__}: {error}".splitlines()[0]
            self._journal.close("failed", reason=line)
            if user_error is None:
                raise
            return Outcome(failure=line)
        finally:
            self._ended.set()
            self._lease.release()
            if pusher:
                pusher.close()
            if server:
                server.close(settings.last_scrape_seconds)

    def _serve_metrics(self) -> MetricsServer | None:
        settings = self._config.monitoring
        if not settings.enabled:
            self._journal.phase("starting", pid=os.getpid(), metrics_url=None, ray_metrics=[])
            return None
        server = self._journal.metrics.serve(settings.host, settings.port)
        url = f"http://{server.host}:{server.port}/metrics"
        busy = f" (port {settings.port} is busy)" if settings.port not in (0, server.port) else ""
        self._journal.notice(f"metrics: {url}{busy}")
        self._journal.phase("starting", pid=os.getpid(), metrics_url=url, ray_metrics=_ray_metrics())
        return server

    def _push_metrics(self) -> Pusher | None:
        settings = self._config.monitoring
        if not settings.enabled or settings.push_gateway is None:
            return None
        registry = self._journal.metrics.registry
        return Pusher(registry, settings.push_gateway, self._config.name, settings.push_seconds)

    def _tell_surroundings(self) -> None:
        """Have the metrics know what is there before anything is counted."""
        metrics = self._journal.metrics
        # The label `SessionName` of Ray's own metrics.
        metrics.session_joined(ray.get_runtime_context().get_session_name())
        metrics.nodes_joined(_node_addresses())
        disk = self._run.files.local_root
        if disk is not None:
            metrics.disk_watched(lambda: shutil.disk_usage(disk).free, lambda: shutil.disk_usage(disk).total)

    @ray.method(concurrency_group="control")
    def snapshot(self) -> Snapshot:
        """Where the run is now, for a progress view."""
        return self._journal.snapshot()

    @ray.method(concurrency_group="control")
    def status(self) -> dict[str, Any]:
        """Where the run is now, for `dm2at status`."""
        return self._journal.status()

    @ray.method(concurrency_group="control")
    def training_progress(self, done: int, total: int, losses: dict[str, float | None]) -> None:
        """Take a word from the training workers: steps done, steps in all, mean losses by kind."""
        self._journal.advanced(done, total)
        self._journal.metrics.losses_measured({kind: v for kind, v in losses.items() if v is not None})

    @ray.method(concurrency_group="control")
    def training_looked(self, accuracy: dict[str, float], collapse: str | None, answer: str | None) -> None:
        """Take accuracies on the validation part from the training, and a collapse with the answer to it."""
        self._journal.metrics.validation_measured(accuracy)
        self._journal.metrics.collapse_seen(collapse)
        if answer is not None:
            self._journal.notice(answer)

    @ray.method(concurrency_group="control")
    def interrupt(self) -> None:
        """Note that the user stopped the run, and give the lease back; the caller then ends the process."""
        self._ended.set()
        self._journal.close("interrupted")
        self._lease.release()

    def _keep_lease(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self._lease.renew()
            except OSError:
                logger.exception("the lease on %s could not be renewed", self._run.uri)
            self._journal.metrics.nodes_joined(_node_addresses())


def start_driver(
    config: Config, plan: Plan, run: RunDirectory, owner: str, actor_class: type[DriverActor] = DriverActor
) -> Any:
    """Start the driver of a run directory.

    Args:
        config: Of the run.
        plan: What the preflight found.
        run: The run directory.
        owner: Names this driver and its restarts in the lease.
        actor_class: The driver.

    Returns:
        The actor's handle; its `run` has yet to be called.

    Raises:
        RunError: Another driver works on it, in this cluster (its name is taken) or elsewhere (the lease is
            held).
    """
    contact = {
        "address": ray.get_runtime_context().gcs_address,
        "cluster": ray.get_runtime_context().get_session_name(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
    }
    restartable = ray.remote(
        num_cpus=0,
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
        concurrency_groups={"control": 4},
    )(actor_class)
    # Beside the process that follows it, which it cannot outlive, not on a worker that may go any time; its
    # metrics are looked for there, too. (A soft affinity puts it anywhere, Ray 2.60.)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    named = restartable.options(name=driver_name(run.uri), namespace=NAMESPACE, scheduling_strategy=here)
    try:
        return named.remote(config, plan, run.uri, owner, contact)
    except ValueError as error:
        if "already" not in str(error):
            raise
        raise RunError(
            f"run directory {run.uri}: a driver of this cluster works on it; wait for it, or ask it by "
            f"`dm2at status {run.uri}`"
        ) from None


def _node_addresses() -> list[str]:
    return [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]


def _ray_metrics() -> list[str]:
    """Where the nodes serve Ray's own metrics, for a Ray without a dashboard, which writes no such list."""
    return [f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in ray.nodes() if n["Alive"]]


def find_user_error(error: BaseException | None) -> UserError | None:
    """What the user can mend at the bottom of an error, through Ray's wrappings; None for a bug."""
    while error is not None:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            return cause
        if isinstance(error, UserError) and not isinstance(error, ray.exceptions.RayTaskError):
            return error
        error = cause if isinstance(cause, BaseException) else error.__cause__ or error.__context__
    return None
