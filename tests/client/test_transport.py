"""The client against servers that fail, lie and go: what is tried again, and where the token goes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.client import Client, ServiceError

from ..labeling.asked_run import ASKED, make_asked_run
from ..service.http.process import ServerProcess
from .conftest import awaits

ME = {"name": "ann", "role": "read", "version": "1", "can_start_runs": False}
Reply = Callable[[BaseHTTPRequestHandler], None]


def sends(
    status: int, body: Any = b"", headers: dict[str, str] | None = None, length: int | None = None
) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return reply


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


class Scripted:
    """A server that gives the replies of a script, the last one for ever, and notes the requests."""

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        script = list(replies)
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                scripted.requests.append((self.command, self.path, dict(self.headers)))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                (script.pop(0) if len(script) > 1 else script[0])(self)

            do_POST = do_GET  # noqa: N815 - so http.server calls it

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def start(*replies: Reply) -> Scripted:
        servers.append(Scripted(*replies))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def problem(kind: str, status: int, **more: Any) -> dict[str, Any]:
    return {"type": f"/problems/{kind}", "title": "t", "status": status, "detail": f"it is {kind}", **more}


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "failure",
    [
        hangs_up,
        sends(503, problem("unreachable", 503)),
        sends(503, problem("busy", 503), {"Retry-After": "0"}),
        sends(502, b"<html>bad gateway</html>"),
        sends(200, b'{"name": "an', length=50),
    ],
    ids=["hangs up", "unreachable", "busy", "proxy", "cut off"],
)
def test_get__what_fails_for_a_moment_is_tried_again(
    scripted: Callable[..., Scripted], failure: Reply
) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        failure(handler)
        handler.close_connection = True

    server = scripted(cut, cut, sends(200, ME))
    assert Client(server.url, timeout=5).me().name == "ann"
    assert len(server.requests) == 3


def test_get__waits_as_long_as_it_is_told(scripted: Callable[..., Scripted]) -> None:
    server = scripted(sends(503, problem("busy", 503), {"Retry-After": "1"}), sends(200, ME))
    begun = time.monotonic()
    Client(server.url).me()
    assert time.monotonic() - begun >= 1
    patient = scripted(sends(503, problem("busy", 503), {"Retry-After": "9"}), sends(200, ME))
    with pytest.raises(ServiceError) as error:
        Client(patient.url, patience=1).me()
    assert (error.value.kind, error.value.status, len(patient.requests)) == ("busy", 503, 1)


@pytest.mark.parametrize(
    ("reply", "kind", "status"),
    [
        (sends(404, problem("unknown-run", 404)), "unknown-run", 404),
        (sends(503, problem("no-cluster", 503)), "no-cluster", 503),
        (sends(500, problem("defect", 500)), "defect", 500),
        (sends(404, b"<html>nginx</html>"), "not-a-service", 404),
        (sends(200, b"<html>welcome</html>"), "not-a-service", 200),
        (sends(200, {"name": "ann"}), "not-a-service", 200),
        (sends(200, ["ann"]), "not-a-service", 200),
        (sends(401, {"type": 3}), "not-a-service", 401),
    ],
)
def test_get__what_asking_again_does_not_mend(
    scripted: Callable[..., Scripted], reply: Reply, kind: str, status: int
) -> None:
    server = scripted(reply)
    with pytest.raises(ServiceError) as error:
        Client(server.url).me()
    assert (error.value.kind, error.value.status, len(server.requests)) == (kind, status, 1)
    assert "\n" not in str(error.value)


def test_get__nobody_is_there(unused_port: int) -> None:
    begun = time.monotonic()
    with pytest.raises(ServiceError, match=f"http://127.0.0.1:{unused_port}: .*refused; see that") as error:
        Client(f"http://127.0.0.1:{unused_port}", patience=1).me()
    assert (error.value.kind, error.value.status) == ("no-connection", 0)
    assert time.monotonic() - begun < 5


def test_get__an_answer_that_does_not_come(scripted: Callable[..., Scripted]) -> None:
    server = scripted(lambda handler: time.sleep(3))
    with pytest.raises(ServiceError, match="no answer in time"):
        Client(server.url, timeout=0.2, patience=0.5).me()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect__is_not_followed_and_the_token_stays(
    scripted: Callable[..., Scripted], status: int
) -> None:
    elsewhere = scripted(sends(200, ME))
    server = scripted(sends(status, headers={"Location": f"{elsewhere.url}/api/v1/me"}))
    with pytest.raises(ServiceError, match="redirects to") as error:
        Client(server.url, "the-token").me()
    assert elsewhere.requests == []
    assert [headers["Authorization"] for _, _, headers in server.requests] == ["Bearer the-token"]
    assert "the-token" not in str(error.value)


def test_token__netrc_and_proxies_of_the_environment_do_not_matter_here(
    scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    proxy = scripted(sends(200, ME))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("DM2AT_TOKEN", raising=False)
    server = scripted(sends(200, ME))
    Client(server.url).me()
    assert "Authorization" not in server.requests[0][2]
    assert proxy.requests == []


@pytest.mark.parametrize(
    "url",
    ["", "runs/x", "s3://bucket", "file:///etc", "http://", "http://h:x", "http://h?a=1", "http://h#a"],
)
def test_client__of_what_is_no_url(url: str) -> None:
    with pytest.raises(ServiceError) as error:
        Client(url)
    assert error.value.kind == "not-a-service"


def test_client__keeps_no_secret_from_a_url() -> None:
    with pytest.raises(ServiceError) as error:
        Client("http://user:secret@host:80")
    assert "secret" not in str(error.value).replace("a secret in a URL", "")


def test_client__below_a_path_of_a_proxy(scripted: Callable[..., Scripted]) -> None:
    server = scripted(sends(200, ME))
    Client(f"{server.url}/labels/").me()
    assert server.requests[0][1] == "/labels/api/v1/me"


def test_model__cut_off_leaves_no_file(scripted: Callable[..., Scripted], tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        sends(200, b"x" * 1000, length=5000)(handler)
        handler.close_connection = True

    (tmp_path / "model").write_bytes(b"the one before")
    with pytest.raises(ServiceError) as error:
        Client(scripted(cut).url).model("run", 0, tmp_path / "model")
    assert error.value.kind == "no-connection"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the one before"]


@pytest.fixture
def restarting(tmp_path: Path) -> Iterator[Callable[[], ServerProcess]]:
    """Starts the service on one and the same port, as often as it is called."""
    awaits(make_asked_run(str(tmp_path / "runs/asked")))
    servers: list[ServerProcess] = []

    def start() -> ServerProcess:
        port = ["--port", servers[-1].url.rpartition(":")[2]] if servers else []
        servers.append(ServerProcess("--runs", tmp_path / "runs", *port).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def test_events__and_answers_go_on_over_a_kill_of_the_server(
    restarting: Callable[[], ServerProcess],
) -> None:
    server = restarting()
    client = Client(server.url, patience=60)
    events = client.events("asked")
    first = next(events)
    assert first.awaiting is not None
    assert first.awaiting.answered == 0
    client.answer("asked", {ASKED[0]: "zero"})
    second = next(events)
    assert second.awaiting is not None
    assert second.awaiting.answered == 1
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    answered = threading.Thread(target=client.answer, args=("asked", {ASKED[1]: "one"}))
    answered.start()
    time.sleep(0.5)
    restarting()
    third = next(events)
    while third.awaiting is not None and third.awaiting.answered == 1:
        third = next(events)
    assert third.awaiting is not None
    assert third.awaiting.answered == 2
    answered.join(30)
    assert [said.label for said in client.said("asked")][-2:] == ["zero", "one"]


def test_import__loads_neither_torch_nor_ray_nor_fastapi() -> None:
    code = (
        "import sys, dm2at_ray.client; from dm2at_ray.client import Client; "
        "print([m for m in ('torch', 'ray', 'fastapi', 'starlette', 'uvicorn', 'numpy', 'pyarrow') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
