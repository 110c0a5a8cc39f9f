"""A real `dm2at serve` process, whoever labels there, and the pictures that they know."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import requests
from PIL import Image

from dm2at_ray.pool.sources.fashion_mnist import CLASS_NAMES

from .commands import Command, wait_for

FASHION = Path("/usr/share/datasets/fashion-mnist")
ANSWER_SECONDS = 60
START_SECONDS = 120


class Server:
    """`dm2at serve`, which may be killed and started again on the same port.

    Args:
        folder: Where its words go.
        port: To listen on.
        options: Further options of the command.
        variables: More of its environment.
    """

    def __init__(
        self, folder: Path, port: int, options: Mapping[str, object], variables: Mapping[str, str]
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._arguments = ["--port", port]
        for name, value in options.items():
            self._arguments += [f"--{name}", value]
        self._folder = folder
        self._variables = dict(variables)
        self._commands = contextlib.ExitStack()
        self._command: Command | None = None
        self.starts = 0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._command = self._commands.enter_context(
            Command("serve", *self._arguments, folder=self._folder, variables=self._variables)
        )
        self.starts += 1

        def answers() -> bool:
            assert self._command is not None
            assert self._command.process.poll() is None, self.words
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.url}/healthz", timeout=5).ok
            return False

        wait_for("the server", answers, START_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._command is not None
        self._command.process.kill()
        self._command.process.wait(timeout=10)

    @property
    def words(self) -> str:
        """What it has said since it was started last."""
        return "" if self._command is None else self._command.stdout + self._command.stderr

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._commands.__exit__(kind, error, trace)


@dataclass
class Caller:
    """A program with a token that talks to the service.

    Attributes:
        url: Of the service.
        token: Its token.
        run: The run that it is about.
    """

    url: str
    token: str
    run: str

    def ask(self, path: str = "", method: str = "GET", body: object = None, code: int = 200) -> Any:
        """The answer, which must have this code; JSON is parsed."""
        answer = self.answer(path, method, body)
        assert answer.status_code == code, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.content

    def answer(self, path: str = "", method: str = "GET", body: object = None) -> requests.Response:
        """Whatever comes back."""
        headers = {"Authorization": f"Bearer {self.token}"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        return requests.request(
            method, f"{self.url}/api/v1{path}", headers=headers, data=data, timeout=ANSWER_SECONDS
        )

    def status(self) -> dict[str, Any]:
        """Of the run."""
        found = self.ask(f"/runs/{self.run}")
        assert isinstance(found, dict)
        return found


class Follower:
    """Follows a run's events in a thread, and comes back when the stream breaks.

    Attributes:
        heard: All statuses, in their order.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.heard: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def wait(self, what: str, seconds: float, **wanted: object) -> None:
        """Wait until the latest status has these fields; `awaiting` is the number of the round."""

        def look() -> bool:
            last = self.heard[-1] if self.heard else {"state": "", "awaiting": None}
            assert last["state"] != "failed", last
            return wanted.items() <= {**last, "awaiting": (last["awaiting"] or {}).get("round")}.items()

        wait_for(what, look, seconds)

    @property
    def states(self) -> list[str]:
        """The states, each change once."""
        states = [status["state"] for status in self.heard]
        return [state for before, state in zip(["", *states], states, strict=False) if state != before]

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _follow(self) -> None:
        headers = {"Authorization": f"Bearer {self._caller.token}"}
        url = f"{self._caller.url}/api/v1/runs/{self._caller.run}/events"
        while not self._over.wait(0.2):
            with (
                contextlib.suppress(requests.RequestException),
                requests.get(url, headers=headers, stream=True, timeout=30) as stream,
            ):
                for line in stream.iter_lines(chunk_size=1):
                    if line.startswith(b"data: "):
                        self.heard.append(json.loads(line[6:]))
                    if self._over.is_set():
                        return


@dataclass
class Labeler:
    """Labels what it is shown: it knows the pictures, and looks at nothing else.

    Attributes:
        caller: Its way to the service.
        known: Pixels of a picture -> its true class.
        session: Where it labels.
        said: Sample id -> what it said and the service has taken.
    """

    caller: Caller
    known: Mapping[bytes, str]
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    said: dict[int, str | None] = field(default_factory=dict)

    def label(self, count: int) -> dict[str, Any]:
        """Label up to so many pictures of those that are leased to it; the lease."""
        lease = self.lease(count)
        for query in lease["queries"]:
            self.say(query, self.look(query["sample_id"]))
        return lease

    def lease(self, count: int) -> dict[str, Any]:
        """Queries that nobody else has."""
        wish = {"session": self.session, "count": count}
        lease = self.caller.ask(f"/runs/{self.caller.run}/leases", "POST", wish)
        assert isinstance(lease, dict)
        return lease

    def look(self, sample_id: int) -> str:
        """The true class of what the picture shows."""
        answer = self.caller.answer(f"/runs/{self.caller.run}/samples/{sample_id}/picture")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("image/")
        with Image.open(io.BytesIO(answer.content)) as picture:
            return self.known[picture.convert("L").tobytes()]

    def say(self, query: Mapping[str, Any], label: str | None) -> dict[str, Any]:
        """Answer one query; it is on disk when this returns."""
        given = {"sample_id": query["sample_id"], "label": label, "round": query["round"]}
        body = {"answers": [given], "session": self.session}
        report = self.caller.ask(f"/runs/{self.caller.run}/labels", "POST", body)
        assert isinstance(report, dict)
        assert report["outcomes"][0]["outcome"] in ("new", "skipped"), report
        self.said[query["sample_id"]] = label
        return report

    def label_round(self, seconds: float) -> None:
        """Label until the round has all its answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            lease = self.label(10)
            if not lease["queries"]:
                if lease["retry_seconds"] is None:
                    return
                # Somebody else has the last ones before them, and may give them back.
                time.sleep(min(1.0, lease["retry_seconds"]))
        raise AssertionError(f"the round is not answered within {seconds:g} s")


def small_fashion_mnist(folder: Path, pool: int, test: int) -> dict[bytes, str]:
    """Write IDX files with the first test images as the pool and some training images as the test.

    Returns:
        Pixels of each picture of the pool -> its true class.
    """
    folder.mkdir(parents=True)
    images, labels = _read("t10k", pool)
    _write(folder, "train", images, labels)
    _write(folder, "t10k", *_read("train", test))
    return {image.tobytes(): CLASS_NAMES[label] for image, label in zip(images, labels, strict=True)}


def _read(stem: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    with gzip.open(FASHION / f"{stem}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(16 + count * 784), np.uint8, offset=16)
    with gzip.open(FASHION / f"{stem}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + count), np.uint8, offset=8)
    return images.reshape(count, 28, 28), labels


def _write(folder: Path, stem: str, images: np.ndarray, labels: np.ndarray) -> None:
    for kind, values, mark in (("images-idx3", images, 0x803), ("labels-idx1", labels, 0x801)):
        header = np.array([mark, *values.shape], ">i4").tobytes()
        (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes(), 1))


@contextlib.contextmanager
def labeling_at_once(labelers: list[Labeler], seconds: float) -> Iterator[None]:
    """All of them label the round in threads; what goes wrong in one of them is raised in the end."""
    errors: list[BaseException] = []

    def label(labeler: Labeler) -> None:
        try:
            labeler.label_round(seconds)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=label, args=(labeler,), daemon=True) for labeler in labelers]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(seconds)
    if errors:
        raise errors[0]
