"""Metrics handed to a Pushgateway, for runs that are over before Prometheus comes to scrape."""

from __future__ import annotations

import logging
import threading

from prometheus_client import CollectorRegistry, push_to_gateway

logger = logging.getLogger(__name__)

JOB = "dm2at"
PUSH_TIMEOUT_SECONDS = 5.0


class Pusher:
    """Pushes a run's metrics every few seconds, and once more when it is closed.

    What is pushed stays at the gateway, grouped by the run, until the next push of that run replaces it or
    somebody deletes it. A gateway that cannot be reached is warned of once and does not disturb the run.

    Args:
        registry: What to push.
        gateway: URL of the Pushgateway.
        run: Value of the `run` label.
        seconds: Between two pushes.
    """

    def __init__(self, registry: CollectorRegistry, gateway: str, run: str, seconds: float) -> None:
        self._registry = registry
        self._gateway = gateway
        self._run = run
        self._seconds = seconds
        self._has_warned = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._push_now_and_then, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Push the last values."""
        self._ended.set()
        self._thread.join()
        self._push()

    def _push_now_and_then(self) -> None:
        self._push()
        while not self._ended.wait(self._seconds):
            self._push()

    def _push(self) -> None:
        try:
            push_to_gateway(
                self._gateway,
                job=JOB,
                registry=self._registry,
                grouping_key={"run": self._run},
                timeout=PUSH_TIMEOUT_SECONDS,
            )
        except OSError as error:
            if not self._has_warned:
                logger.warning("metrics could not be pushed to %s (%s)", self._gateway, error)
            self._has_warned = True
