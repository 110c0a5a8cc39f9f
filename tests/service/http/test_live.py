"""`dm2at serve` as a process: requests as no client library would send them, and its end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.labeling import LabelBook
from dm2at_ray.store import RunDirectory

from ...labeling.asked_run import AskedRun
from .conftest import Place, make_place
from .process import ServerProcess
from .routes import assert_problem
from .test_roles import ROUTES, snapshot

API = "/api/v1"
LABELS = f"{API}/runs/digits/labels"
JSON = {"Content-Type": "application/json"}
MEBIBYTE = 2**20

NAMES = {
    "up": "..",
    "up, coded": "%2e%2e",
    "up, coded twice": "%252e%252e",
    "far up": "..%2f..%2f..%2fetc%2fpasswd",
    "up, backslashes": "..%5c..%5cetc",
    "root": "%2fetc%2fpasswd",
    "inside and out": "digits%2f..%2f..%2foutside",
    "into it": "digits%2frounds",
    "here": ".",
    "nothing": "%20",
    "null": "digits%00",
    "new line": "digits%0a",
    "no Unicode": "%ff%fe",
    "Unicode": "d%C4%B1gits",
    "hidden": ".git",
    "option": "-digits",
    "URI": "file%3a%2f%2f%2fetc",
    "bucket": "s3%3a%2f%2fbucket%2frun",
    "long": "a" * 5000,
    "very long": "%61" * 15_000,
    "template": "%7b%7b7*7%7d%7d",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere__are_refused_and_open_nothing(
    name: str, live: ServerProcess, live_place: Place
) -> None:
    # What a way up would find.
    shutil.copytree(live_place.runs / "digits", live_place.runs.parent / "outside", dirs_exist_ok=True)
    before = snapshot(live_place.runs.parent)
    for route in ROUTES:
        for key in ("run", "round", "sample_id"):
            if f"{{{key}}}" not in route.template:
                continue
            path = route.path(**{key: NAMES[name]})
            body = b"{}" if route.method == "POST" else None
            status, headers, content = live.ask(
                route.method, path, body, {**JSON, **live_place.bearer("operate")}
            )
            assert status in (404, 405, 422), (route, status, content[:300])
            assert_problem(status, headers["content-type"], json.loads(content))
            assert b"root:" not in content
    assert snapshot(live_place.runs.parent) == before


def test_link_out_of_the_folder__is_no_run(live: ServerProcess, live_place: Place) -> None:
    elsewhere = live_place.runs.parent / "elsewhere"
    (live_place.runs / "done").rename(elsewhere)
    link = live_place.runs / "linked"
    link.symlink_to(elsewhere)
    try:
        for path in (f"{API}/runs/linked", f"{API}/runs/linked/config", f"{API}/runs/linked/rounds/0/model"):
            status, _, content = live.ask("GET", path, headers=live_place.bearer("operate"))
            assert status in (403, 404), content
        _, _, content = live.ask("GET", f"{API}/runs", headers=live_place.bearer("operate"))
        assert [run["name"] for run in json.loads(content)["runs"]] == ["digits"]
    finally:
        link.unlink()
        elsewhere.rename(live_place.runs / "done")


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2fetc/passwd"]
)
def test_static__gives_nothing_but_the_page(path: str, live: ServerProcess) -> None:
    status, headers, content = live.ask("GET", path)
    assert status == 404
    assert_problem(status, headers["content-type"], json.loads(content))


def test_long_body__is_refused_by_what_it_says_it_is(live: ServerProcess, live_place: Place) -> None:
    with live.connect() as connection:
        send_head(connection, "POST", LABELS, live_place, f"Content-Length: {10**15}")
        status, body = answer_of(connection)
    assert (status, body["type"]) == (413, "/problems/too-large")


def test_long_body__is_refused_by_what_it_is(live: ServerProcess, live_place: Place) -> None:
    """Said to be of no length, in chunks; the answer comes before its end, and the server keeps nothing."""
    before = live.resident_bytes()
    with live.connect() as connection:
        send_head(connection, "POST", LABELS, live_place, "Transfer-Encoding: chunked")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        while sent < 64 * MEBIBYTE:
            connection.sendall(chunk)
            sent += 0x10000
        connection.sendall(b"0\r\n\r\n")
        status, body = answer_of(connection)
    assert (status, body["type"]) == (413, "/problems/too-large")
    assert live.resident_bytes() - before < 16 * MEBIBYTE


def test_long_body__of_nobody_is_not_read_at_all(live: ServerProcess) -> None:
    with live.connect() as connection:
        send_head(connection, "POST", LABELS, None, "Content-Length: 1000")
        status, body = answer_of(connection)
    assert (status, body["type"]) == (401, "/problems/unauthenticated")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(400)),
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 400_000,
        b"GET /" + b"y" * 400_000,
    ],
    ids=["many headers", "a long header", "a long path"],
)
def test_long_head__is_refused_before_its_end(head: bytes, live: ServerProcess) -> None:
    with live.connect() as connection:
        try:
            for begin in range(0, len(head), 10_000):
                connection.sendall(head[begin : begin + 10_000])
                time.sleep(0.001)
        except OSError:
            pass  # it has hung up
        try:
            status, body = answer_of(connection)
        except ConnectionResetError:
            return  # so early that its answer is lost
    assert status == 400
    assert body["type"] == "/problems/malformed"


@pytest.mark.parametrize(
    "text", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"]
)
def test_what_is_no_request__is_400(text: bytes, live: ServerProcess) -> None:
    with live.connect() as connection:
        connection.sendall(text)
        status, body = answer_of(connection)
    assert status == 400
    assert body["type"] == "/problems/malformed"


def test_log__has_no_token_and_no_query(made_runs: AskedRun, tmp_path: Path) -> None:
    place = make_place(tmp_path, made_runs)
    with ServerProcess("--runs", place.runs, "--tokens", place.tokens, "--access-log") as server:
        secret = place.secrets["label"]
        server.ask("GET", f"{API}/me?token={secret}", headers=place.bearer("label"))
        server.ask("GET", f"{API}/me", headers={"Authorization": "Bearer wrong-secret"})
        server.ask("GET", "/a%0ab", headers={"Authorization": "Bearer wrong-secret"})
        assert server.end() == 0
        assert f"label GET {API}/me 200" in server.stderr
        assert f"- GET {API}/me 401" in server.stderr
        assert "GET /a%0Ab 404" in server.stderr
        for hidden in (*place.secrets.values(), "wrong-secret", "token="):
            assert hidden not in server.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal__ends_it_in_order(number: int, made_runs: AskedRun, tmp_path: Path) -> None:
    """With a stream open and a connection that waits, it ends and says nothing of a time that was up."""
    place = make_place(tmp_path, made_runs)
    with ServerProcess("--runs", place.runs) as server:
        assert server.first_line == f"serving {place.runs} on {server.url}"
        with server.connect() as stream, server.connect() as idle:
            stream.sendall(f"GET {API}/runs/digits/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert b"event: status" in read_until(stream, b"\n\n")
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            read_until(idle, b"ok\n")
            assert server.end(number) == 0
            assert stream.recv(65536).endswith(b"0\r\n\r\n"), "the stream was cut, not ended"
        assert server.stderr == ""
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_sigkill__right_after_a_label_was_acknowledged_loses_nothing(
    made_runs: AskedRun, tmp_path: Path
) -> None:
    place = make_place(tmp_path, made_runs)
    given: dict[int, str] = {}
    for sample, name in list(place.asked.truth.items())[:3]:
        with ServerProcess("--runs", place.runs, "--cache", tmp_path / "cache") as server:
            body = json.dumps({"answers": [{"sample_id": sample, "label": name}]}).encode()
            with server.connect() as connection:
                send_head(connection, "POST", LABELS, None, f"Content-Length: {len(body)}")
                connection.sendall(body)
                # The first bytes of the answer: not a moment is waited.
                assert connection.recv(15).startswith(b"HTTP/1.1 200 ")
                assert server.end(signal.SIGKILL) == -signal.SIGKILL
        given[sample] = name
        said = LabelBook(RunDirectory(str(place.runs / "digits"))).effective(list(given))
        assert dict(zip(said["sample_id"].to_pylist(), said["label"].to_pylist(), strict=True)) == given
    with ServerProcess("--runs", place.runs, "--cache", tmp_path / "cache") as server:
        status = json.loads(server.ask("GET", LABELS)[2])
        assert status["rounds"][1]["answered"] == len(given)


def test_ipv6__is_listened_on(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with ServerProcess("--runs", tmp_path, "--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")


def send_head(connection: socket.socket, method: str, path: str, place: Place | None, *headers: str) -> None:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    if place is not None:
        lines.append(f"Authorization: Bearer {place.secrets['operate']}")
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())


def read_until(connection: socket.socket, end: bytes) -> bytes:
    found = b""
    while end not in found:
        part = connection.recv(65536)
        if not part:
            raise ConnectionResetError
        found += part
    return found


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer whose length is told."""
    head, _, body = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    status = int(lines[0].split(" ")[1])
    problem = json.loads(body)
    assert headers["content-type"] == "application/problem+json"
    return status, problem
