"""The command in the test's own process, and an S3 server beside it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dm2at_ray import cli


class Answer(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def dm2at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Answer]]:
    """`dm2at("status", directory)`: its exit code, and what it printed on stdout and stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    path = list(sys.path)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["dm2at", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        return Answer(int(ending.value.code or 0), *capsys.readouterr())

    yield call
    sys.path[:] = path
    for number, handler in handlers.items():
        signal.signal(number, handler)


S3_KEY, S3_SECRET = "the-key", "the-secret-of-the-store"


class Bucket:
    """An empty bucket of the S3 server, filled and read by boto3: not by what is tested.

    Attributes:
        name: of the bucket; also the store's address, as `s3://name`, where the environment has the rest.
        address: host and port of the server.
    """

    def __init__(self, address: str) -> None:
        import boto3

        self.address = address
        self.name = f"bucket-{uuid.uuid4().hex}"
        login = {"aws_access_key_id": S3_KEY, "aws_secret_access_key": S3_SECRET, "region_name": "us-east-1"}
        self._client: Any = boto3.client("s3", endpoint_url=f"http://{address}", **login)
        self._client.create_bucket(Bucket=self.name)

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Write all files below a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def objects(self) -> dict[str, bytes]:
        """All objects by their keys."""
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", [])
        keys = [entry["Key"] for entry in found]
        return {key: self._client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def check_keys(self, is_on: bool) -> None:
        """Whether the server asks who is there; none of its users has a key."""
        asked = urllib.request.Request(
            f"http://{self.address}/moto-api/reset-auth",
            data=b"0" if is_on else b"inf",
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(asked, timeout=10).close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Host and port of moto's S3 server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server did not start"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket that `s3://name` reaches, as on a machine that is set up for it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", S3_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    return Bucket(s3_server)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a window, as Playwright's browser."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs Debian's package chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox needs rights that containers and root do not have.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
