"""Many people who label at once over HTTP, in a process of their own.

`python -m dm2at_ray.bench.serve_labelers DIRECTORY` does the job in DIRECTORY/job.json and leaves result.json
there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

JOB, RESULT = "job.json", "result.json"
HOLD = 5
"""Queries that a labeler has before them."""
STATUS, LEASE, PICTURE, LABEL = "status", "lease", "picture", "label"
_PATIENCE = aiohttp.ClientTimeout(total=120)


@dataclass(frozen=True)
class LabelersJob:
    """What the process does.

    Attributes:
        url: Of the service.
        run: Name of the run.
        tokens: Name of each labeler -> their token.
        truth: Sample id -> the class that all of them say.
        think_ms: How long each looks at a picture before answering.
    """

    url: str
    run: str
    tokens: dict[str, str]
    truth: dict[int, str]
    think_ms: float


@dataclass
class LabelersResult:
    """What the labelers saw; times are seconds since 1970.

    Attributes:
        first_seconds: What the very first request took, in which the service builds its index of the run.
        seconds: From the next one to the end of the last.
        milliseconds: Kind of request -> how long each took.
        served: Sample id, labeler, time of the answer, end of the lease: of each query in each lease.
        acknowledged: Sample id and labeler of each label that was reported as written.
        begun: When each of these labels was sent.
        picture_bytes: Of all pictures.
    """

    first_seconds: float = 0.0
    seconds: float = 0.0
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {LEASE: [], PICTURE: [], LABEL: []})
    served: list[tuple[int, str, float, float]] = field(default_factory=list)
    acknowledged: list[tuple[int, str]] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    picture_bytes: int = 0


class RefusedError(Exception):
    """The service has answered with an error."""


class Labeler:
    """One person: takes queries, looks at their pictures and those beside them, and answers one by one.

    Args:
        http: The person's own connections.
        job: Of all.
        name: Who.
        result: Takes what is seen.
    """

    def __init__(
        self, http: aiohttp.ClientSession, job: LabelersJob, name: str, result: LabelersResult
    ) -> None:
        self._http = http
        self._job = job
        self._name = name
        self._result = result
        self._run = f"{job.url}/api/v1/runs/{job.run}"
        # A browser keeps pictures: they never change.
        self._seen: set[int] = set()

    async def look_at_run(self) -> None:
        """Ask how far the labels are."""
        await self._ask(STATUS, "labels")

    async def label_all(self) -> None:
        """Label until the round is answered."""
        while True:
            lease = json.loads(await self._ask(LEASE, "leases", {"session": "window", "count": HOLD}))
            now = time.time()
            for query in lease["queries"]:
                until = datetime.fromisoformat(query["leased_until"].replace("Z", "+00:00")).timestamp()
                self._result.served.append((query["sample_id"], self._name, now, until))
            if not lease["queries"]:
                if lease["retry_seconds"] is None:
                    return
                # Sooner than the service asks for: what others hold is answered in a moment here.
                await asyncio.sleep(min(lease["retry_seconds"], 0.1))
            for query in lease["queries"]:
                await self._look_at(query)
                await self._answer(query["sample_id"])

    async def _look_at(self, query: dict[str, Any]) -> None:
        for sample_id in (query["sample_id"], *(each["sample_id"] for each in query["neighbors"])):
            if sample_id not in self._seen:
                data = await self._ask(PICTURE, f"samples/{sample_id}/picture")
                self._result.picture_bytes += len(data)
                self._seen.add(sample_id)
        await asyncio.sleep(self._job.think_ms / 1000)

    async def _answer(self, sample_id: int) -> None:
        answer = {"sample_id": sample_id, "label": self._job.truth[sample_id]}
        begun = time.time()
        report = json.loads(await self._ask(LABEL, "labels", {"answers": [answer], "session": "window"}))
        if report["written"] == 1:
            self._result.acknowledged.append((sample_id, self._name))
            self._result.begun.append(begun)

    async def _ask(self, kind: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        method = "GET" if body is None else "POST"
        begin = time.perf_counter()
        async with self._http.request(method, f"{self._run}/{path}", json=body) as answer:
            data = await answer.read()
        if kind != STATUS:
            self._result.milliseconds[kind].append(1000 * (time.perf_counter() - begin))
        if answer.status != 200:
            raise RefusedError(f"{method} {path}: {answer.status} {data[:300].decode(errors='replace')}")
        return data


async def label(job: LabelersJob) -> LabelersResult:
    """Have all of them label at once, until the round is answered.

    Raises:
        RefusedError: The service has answered with an error.
    """
    result = LabelersResult()

    async def one(name: str, token: str, *, begin: bool = False) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers=headers, timeout=_PATIENCE) as http:
            labeler = Labeler(http, job, name, result)
            await (labeler.look_at_run() if begin else labeler.label_all())

    begin = time.perf_counter()
    await one(*next(iter(job.tokens.items())), begin=True)
    result.first_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    await asyncio.gather(*(one(name, token) for name, token in job.tokens.items()))
    result.seconds = time.perf_counter() - begin
    return result


def main(directory: Path) -> None:
    """Do the job in a directory."""
    given = json.loads((directory / JOB).read_text())
    job = LabelersJob(**{**given, "truth": {int(key): name for key, name in given["truth"].items()}})
    try:
        answer = asdict(asyncio.run(label(job)))
    except (RefusedError, aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    (directory / RESULT).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
