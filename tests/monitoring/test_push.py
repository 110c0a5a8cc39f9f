"""A Pushgateway of a few lines takes what is pushed; the real one is asked where it is installed."""

import http.server
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError
from dm2at_ray.monitoring.metrics import RunMetrics
from dm2at_ray.monitoring.push import Pusher

NEVER = 3600.0


class Gateway(http.server.BaseHTTPRequestHandler):
    """Keeps what was pushed last, and where to."""

    pushed: list[tuple[str, str]]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.pushed.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def gateway() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    pushed: list[tuple[str, str]] = []
    handler = type("Handler", (Gateway,), {"pushed": pushed})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", pushed
    finally:
        server.shutdown()
        server.server_close()


def value(body: str, name: str) -> float:
    samples = [s for family in text_string_to_metric_families(body) for s in family.samples]
    return next(sample.value for sample in samples if sample.name == name)


def test_pusher__pushes_at_once_and_has_the_last_word() -> None:
    metrics = RunMetrics("digits", ["cat"])
    with gateway() as (url, pushed):
        pusher = Pusher(metrics.registry, url, "digits", NEVER)
        metrics.round_started(7)
        pusher.close()
    assert {path for path, _ in pushed} == {"/metrics/job/dm2at/run/digits"}
    assert value(pushed[-1][1], "dm2at_round") == 7
    assert len(pushed) == 2


def test_pusher__pushes_now_and_then() -> None:
    with gateway() as (url, pushed):
        pusher = Pusher(RunMetrics("digits", ["cat"]).registry, url, "digits", 0.05)
        deadline = time.monotonic() + 10
        while len(pushed) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        pusher.close()
    assert len(pushed) >= 4


def test_pusher__an_absent_gateway_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dm2at_ray"):
        pusher = Pusher(RunMetrics("digits", ["cat"]).registry, "http://127.0.0.1:9", "digits", 0.01)
        time.sleep(0.1)
        pusher.close()
    assert [record.getMessage()[:55] for record in caplog.records] == [
        "metrics could not be pushed to http://127.0.0.1:9 (<url"
    ]


def test_config__is_off_and_takes_no_credentials() -> None:
    assert Config().monitoring.push_gateway is None
    with pytest.raises(ConfigError, match=r"monitoring\.push_gateway"):
        Config.from_mapping({"monitoring": {"push_gateway": "http://me:secret@gateway:9091"}})


def test_pusher__the_real_gateway_keeps_a_run_that_is_over() -> None:
    program = shutil.which("prometheus-pushgateway")
    if program is None:
        pytest.skip("no prometheus-pushgateway on the PATH: Debian's package of that name has it")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        metrics = RunMetrics("digits", ["cat"])
        pusher = Pusher(metrics.registry, url, "digits", NEVER)
        metrics.phase_changed("done")
        pusher.close()
        with urlopen(f"{url}/metrics", timeout=10) as reply:
            kept = reply.read().decode()
    finally:
        server.terminate()
        server.wait(10)
    (done,) = [
        line for line in kept.splitlines() if line.startswith("dm2at_phase{") and 'phase="done"' in line
    ]
    assert 'run="digits"' in done
    assert 'job="dm2at"' in done
    assert done.endswith(" 1")
