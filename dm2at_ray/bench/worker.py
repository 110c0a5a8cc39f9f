"""One engine or peer in a process of its own, so that its peak memory is its own.

`python -m dm2at_ray.bench.worker DIRECTORY` does the job in DIRECTORY/job.json and leaves result.json there,
and the neighbours of the audit's queries in ids.npy.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dm2at_ray.bench.contenders import PEERS, Answer, run_engine, run_peer
from dm2at_ray.bench.machine import OtherLoad, peak_rss_bytes
from dm2at_ray.bench.truth import query_order
from dm2at_ray.errors import UserError
from dm2at_ray.neighbors import Search

WARM_ROWS = 4096
"""Rows of the warm-up: enough for every engine to take the way that it takes on a whole pool."""

WARM_QUERIES = 64

PAGE = 1024
"""Float32 values in a page of memory."""

JOB, RESULT, IDS = "job.json", "result.json", "ids.npy"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does.

    Attributes:
        name: an engine or a key of PEERS.
        features: a .npy file of (N, D) float32.
        rows: how many of them, from the first, are the pool.
        k: neighbours of each row.
        queries: how many of the rows, in `query_order`, are answered to the audit.
        seed: of that order.
        threads: CPU threads.
        device: where to work.
        limit: seconds after which a peer begins no more rows.
        repeat: times that an engine runs.
    """

    name: str
    features: str
    rows: int
    k: int
    queries: int
    seed: int
    threads: int
    device: str
    limit: float
    repeat: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one process found out.

    Attributes:
        seconds: of the whole search without warm-up; the median of all runs.
        share: rows searched, of all; `seconds` is scaled where it is below 1.
        compile_seconds: what the first warm-up took more than the second.
        peak_rss_bytes: highest resident memory of the process: features, warm-up, search and imports.
        imports_rss_bytes: of that, what stood there before the features were read.
        peak_device_bytes: highest memory of the GPU; None without one.
        other_cores: CPU cores that other processes took meanwhile; None where the system does not tell.
        engine_used: what `auto` stood for; None for all others.
    """

    seconds: float
    share: float
    compile_seconds: float
    peak_rss_bytes: int
    imports_rss_bytes: int
    peak_device_bytes: int | None
    other_cores: float | None
    engine_used: str | None


def work(job: Job) -> tuple[Result, np.ndarray]:
    """Warm up, run, measure.

    Returns:
        The result, and (P, k) int64 neighbours of the first P <= `job.queries` rows of the order.
    """
    device = torch.device(job.device)
    imports_rss = peak_rss_bytes()
    features = np.load(job.features, mmap_mode="c")[: job.rows]
    # One value of every page: reading the file is nobody's search.
    features.reshape(-1)[::PAGE].sum()
    order = query_order(job.rows, job.seed)
    rows, dim = features.shape
    engine_used = Search(job.k).chosen_engine(rows, dim, device.type) if job.name == "auto" else None
    compile_seconds = _warm_up(job, features[:WARM_ROWS], engine_used or job.name, device)
    others = OtherLoad()
    if job.name in PEERS:
        answers = [_peer(job, features, order, job.queries, device)]
    else:
        answers = [_engine(job, job.name, features, order, device) for _ in range(job.repeat)]
    result = Result(
        seconds=statistics.median(answer.seconds for answer in answers),
        share=answers[-1].share,
        compile_seconds=compile_seconds,
        peak_rss_bytes=peak_rss_bytes(),
        imports_rss_bytes=imports_rss,
        peak_device_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        other_cores=others.cores(),
        engine_used=engine_used,
    )
    return result, answers[-1].ids


def main(directory: Path) -> None:
    """Do the job of a directory; what a user can mend is left as `error` in result.json."""
    job = Job(**json.loads((directory / JOB).read_text()))
    try:
        result, ids = work(job)
    except UserError as error:
        answer: dict[str, object] = {"error": str(error)}
    else:
        np.save(directory / IDS, ids)
        answer = dataclasses.asdict(result)
    (directory / RESULT).write_text(json.dumps(answer))


def _warm_up(job: Job, features: np.ndarray, name: str, device: torch.device) -> float:
    """Run twice on a few rows; return what the first time took more: compiling, loading, allocating."""
    few = dataclasses.replace(job, k=min(job.k, len(features) - 1))
    order = np.arange(min(len(features), WARM_QUERIES))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        if name in PEERS:
            _peer(few, features, order, len(order), device)
        else:
            _engine(few, name, features, order, device)
        seconds.append(time.perf_counter() - began)
    return max(0.0, seconds[0] - seconds[1])


def _peer(job: Job, features: np.ndarray, order: np.ndarray, queries: int, device: torch.device) -> Answer:
    return run_peer(job.name, features, job.k, order, queries, device=device, limit=job.limit)


def _engine(job: Job, name: str, features: np.ndarray, order: np.ndarray, device: torch.device) -> Answer:
    queries = order[: job.queries]
    return run_engine(name, features, job.k, queries, device=device, threads=job.threads, seed=job.seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
