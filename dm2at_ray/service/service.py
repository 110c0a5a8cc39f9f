"""The parts that the routes stand on, put together."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dm2at_ray.client.schemas import RunStatus
from dm2at_ray.service.auth import Auth
from dm2at_ray.service.control import Control
from dm2at_ray.service.desks import Desks
from dm2at_ray.service.downloads import Reports
from dm2at_ray.service.events import Events
from dm2at_ray.service.jobs import Jobs
from dm2at_ray.service.metrics import ServiceMetrics
from dm2at_ray.service.pictures import Pictures
from dm2at_ray.service.runs import Runs
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.tokens import TokenFile


@dataclass(frozen=True)
class Service:
    """What the routes stand on.

    Attributes:
        settings: As the service was started.
        auth: Who asks.
        runs: Run directories and what they say.
        desks: Queries and labels of runs.
        control: Jobs of runs.
        pictures: Pictures of samples.
        reports: Of runs, made once for what there is.
        metrics: Of the service itself.
        events: Those who watch runs.
        resources: What is closed in the end.
    """

    settings: ServiceSettings
    auth: Auth
    runs: Runs
    desks: Desks
    control: Control
    pictures: Pictures
    reports: Reports
    metrics: ServiceMetrics
    events: Events
    resources: contextlib.ExitStack

    def start(self) -> None:
        """Begin what is done without being asked."""
        self.control.start_sweeping()

    def close(self) -> None:
        """End it, and close what is open."""
        self.control.close()
        self.resources.close()

    def run_status(self, name: str) -> RunStatus:
        """Where a run is, with the round that awaits labels.

        Raises:
            ProblemError: `unknown-run`.
        """
        with self.desks.at(self.runs.directory(name)) as desk:
            awaiting = desk.awaiting()
        return self.runs.status(name, awaiting)


def make_service(settings: ServiceSettings) -> Service:
    """Put the parts together; nothing runs yet.

    Raises:
        UserError: The tokens cannot be read, or the root of the runs cannot be opened.
    """
    auth = Auth(TokenFile(settings.tokens) if settings.tokens else None)
    runs = Runs(settings.runs, Jobs(settings.address) if settings.address else None)
    resources = contextlib.ExitStack()
    cache = settings.cache or Path(
        resources.enter_context(
            tempfile.TemporaryDirectory(prefix="dm2at-serve-", ignore_cleanup_errors=True)
        )
    )
    desks = Desks(cache / "labels", settings.max_open_runs, settings.lease_seconds)
    resources.callback(desks.close)
    control = Control(runs, desks, settings)
    pictures = Pictures(settings.data_roots, cache / "pictures", cache_bytes=settings.cache_bytes)
    resources.callback(pictures.close)
    reports = Reports(settings.data_roots, cache / "pictures")
    resources.callback(reports.close)
    metrics = ServiceMetrics()

    def status(name: str) -> bytes:
        return service.run_status(name).model_dump_json().encode()

    events = Events(status, settings)
    metrics.watch_subscribers(lambda: events.subscribers)
    service = Service(settings, auth, runs, desks, control, pictures, reports, metrics, events, resources)
    return service
