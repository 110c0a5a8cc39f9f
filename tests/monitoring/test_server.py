"""Real sockets: what Prometheus would get, and what happens where another process has the port."""

import logging
import socket
import threading
import time
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dm2at_ray.errors import ConfigError
from dm2at_ray.monitoring.metrics import RunMetrics


def fetch(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        families = text_string_to_metric_families(reply.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}


def busy_socket() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def test_serve__answers_a_real_request_with_the_values_of_the_moment() -> None:
    metrics = RunMetrics("digits", ["cat", "dog"])
    server = metrics.serve("127.0.0.1", 0)
    try:
        metrics.round_started(3)
        assert fetch(server.port)["dm2at_round"] == 3
        metrics.round_started(4)
        assert fetch(server.port)["dm2at_round"] == 4
    finally:
        server.close()


def test_serve__close_frees_the_port() -> None:
    metrics = RunMetrics("digits", ["cat", "dog"])
    first = metrics.serve("127.0.0.1", 0)
    first.close()
    again = metrics.serve("127.0.0.1", first.port)
    again.close()
    assert again.port == first.port


def test_serve__a_busy_port_is_said_and_the_next_free_one_taken(caplog: pytest.LogCaptureFixture) -> None:
    with busy_socket() as listener, caplog.at_level(logging.WARNING, "dm2at_ray"):
        busy = listener.getsockname()[1]
        server = RunMetrics("digits", ["cat", "dog"]).serve("127.0.0.1", busy)
        try:
            assert busy < server.port <= busy + 100
            assert fetch(server.port)["dm2at_round"] == 0
            assert [record.getMessage() for record in caplog.records] == [
                f"metrics port {busy} is busy: metrics are served on port {server.port} instead"
            ]
        finally:
            server.close()


def test_serve__an_address_of_another_machine_is_the_users_to_mend() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:9400.*choose an address of this machine"):
        RunMetrics("digits", ["cat", "dog"]).serve("192.0.2.1", 9400)


def scrape(port: int) -> None:
    """As Prometheus does, which says how long it will wait."""
    header = {"X-Prometheus-Scrape-Timeout-Seconds": "5"}
    with urlopen(Request(f"http://127.0.0.1:{port}/metrics", headers=header), timeout=5) as reply:
        reply.read()


def test_close__waits_for_one_more_scrape_where_somebody_scrapes() -> None:
    server = RunMetrics("digits", ["cat"]).serve("127.0.0.1", 0)
    scrape(server.port)
    seen: list[float] = []

    def come_again() -> None:
        time.sleep(0.5)
        scrape(server.port)
        seen.append(time.monotonic())

    threading.Thread(target=come_again).start()
    server.close(last_scrape_seconds=30)
    closed = time.monotonic()
    assert seen
    assert closed - seen[0] < 5


def test_close__waits_no_longer_than_it_may() -> None:
    server = RunMetrics("digits", ["cat"]).serve("127.0.0.1", 0)
    scrape(server.port)
    began = time.monotonic()
    server.close(last_scrape_seconds=0.5)
    assert 0.4 < time.monotonic() - began < 5


def test_close__does_not_wait_where_nobody_scrapes_but_a_person_has_looked() -> None:
    server = RunMetrics("digits", ["cat"]).serve("127.0.0.1", 0)
    fetch(server.port)
    began = time.monotonic()
    server.close(last_scrape_seconds=30)
    assert time.monotonic() - began < 5
