"""The benchmark of neighbour search: the same pool for every engine and peer, one after the other."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dm2at_ray.bench.contenders import PEERS, peers_installed
from dm2at_ray.bench.features import FeatureFile, make_features, open_features
from dm2at_ray.bench.hardness import LID_NEIGHBORS, Hardness
from dm2at_ray.bench.images import load_images
from dm2at_ray.bench.machine import machine_facts
from dm2at_ray.bench.process import run_worker
from dm2at_ray.bench.report import Report, Row, fit_growth
from dm2at_ray.bench.settings import DEFAULT_D, DEFAULT_N, Settings
from dm2at_ray.bench.truth import Truth, query_order
from dm2at_ray.bench.worker import Job
from dm2at_ray.errors import ConfigError, RunError

PEER_GRACE = 900.0
"""Seconds a peer has beside its limit: to start, warm up, index, and end what it began."""

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Pool:
    """The first rows of a feature file, and the right answers of some of them."""

    features: FeatureFile
    rows: int
    truth: Truth
    hardness: Hardness


def study(settings: Settings, progress: Progress) -> Report:
    """Time the engines and peers on pools of real features, and measure the recall of each.

    Args:
        settings: what to do.
        progress: told in a line what begins.

    Raises:
        ConfigError: sizes, k or d do not fit the features.
        PoolError: features or images cannot be read.
    """
    device = torch.device(settings.device)
    torch.set_num_threads(settings.thread_count())
    hardness: dict[int, Hardness] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dm2at-bench-") as scratch:
        features = _features(settings, Path(scratch), device, progress)
        for n in _sizes(settings, features):
            pool = _audited_pool(settings, features, n, device, progress)
            hardness[n] = pool.hardness
            rows += _with_ratios(list(_run_all(settings, pool, progress)))
    return Report(
        machine=machine_facts(device),
        source=features.source,
        settings={
            "threads": settings.thread_count(),
            "seed": settings.seed,
            "device": settings.device,
            "audit_queries": settings.audit_queries,
            "peer_limit": settings.peer_limit,
            "limit": settings.limit,
            "repeat": settings.repeat,
        },
        hardness=hardness,
        rows=rows,
        growth=fit_growth(rows),
        missing_peers=[name for name in PEERS if name not in peers_installed()],
    )


def _features(settings: Settings, scratch: Path, device: torch.device, progress: Progress) -> FeatureFile:
    if settings.features is not None:
        features = open_features(settings.features, scratch)
        if settings.dim not in (None, features.dim):
            raise ConfigError(f"d={settings.dim}, but {settings.features} has {features.dim} features a row")
        return features
    sizes = settings.sizes or [DEFAULT_N]
    _check_k(settings.k, min(sizes))
    return make_features(
        settings.save_features or scratch / "features.npy",
        load_images(settings.images),
        rows=max(sizes),
        dim=settings.dim or DEFAULT_D,
        seed=settings.seed,
        device=device,
        progress=progress,
    )


def _sizes(settings: Settings, features: FeatureFile) -> list[int]:
    sizes = sorted(set(settings.sizes)) or [features.rows]
    if sizes[-1] > features.rows:
        raise ConfigError(f"n={sizes[-1]:,}, but {features.path} has {features.rows:,} rows")
    _check_k(settings.k, sizes[0])
    return sizes


def _check_k(k: int, n: int) -> None:
    if k >= n:
        raise ConfigError(f"k={k} must be less than n={n}")


def _audited_pool(
    settings: Settings, features: FeatureFile, n: int, device: torch.device, progress: Progress
) -> Pool:
    """Find the right answers of random queries: once for all engines and peers."""
    queries = query_order(n, settings.seed)[: settings.audit_queries]
    progress(f"n = {n:,}: searching {len(queries):,} queries in full, checked in float64")
    rows = features.read(n)
    truth = Truth.find(rows, queries, min(n - 1, max(settings.k, LID_NEIGHBORS)), device)
    return Pool(features, n, truth, Hardness.measure(rows, truth, settings.k, settings.seed))


def _run_all(settings: Settings, pool: Pool, progress: Progress) -> Iterator[Row]:
    for name in dict.fromkeys([*settings.engines, *settings.peer_names()]):
        progress(f"n = {pool.rows:,}: {name}")
        yield _run_one(settings, pool, name)


def _run_one(settings: Settings, pool: Pool, name: str) -> Row:
    is_peer = name in PEERS
    job = Job(
        name=name,
        features=str(pool.features.path.resolve()),
        rows=pool.rows,
        k=settings.k,
        queries=len(pool.truth.queries),
        seed=settings.seed,
        threads=settings.thread_count(),
        device=settings.device if name == "cdist" or not is_peer else "cpu",
        limit=settings.peer_limit,
        repeat=settings.repeat,
    )
    row = Row(
        engine=name,
        n=pool.rows,
        d=pool.features.dim,
        k=settings.k,
        metric=PEERS[name].metric if is_peer else "L1 + L2",
        device=job.device,
    )
    try:
        result, ids = run_worker(job, settings.peer_limit + PEER_GRACE if is_peer else settings.limit)
    except RunError as error:
        return dataclasses.replace(row, error=str(error))
    return dataclasses.replace(
        row,
        engine_used=result.engine_used,
        seconds=result.seconds,
        estimated=result.share < 1,
        share=result.share,
        pairs_dims_per_second=pool.rows**2 * pool.features.dim / result.seconds,
        recall=pool.truth.recall(pool.features.read(pool.rows), settings.k, ids),
        audited=len(ids),
        peak_rss_bytes=result.peak_rss_bytes,
        imports_rss_bytes=result.imports_rss_bytes,
        peak_device_bytes=result.peak_device_bytes,
        compile_seconds=result.compile_seconds,
        other_cores=result.other_cores,
    )


def _with_ratios(rows: list[Row]) -> list[Row]:
    """Compare all rows of one pool with torch.cdist's."""
    cdist = next((row.seconds for row in rows if row.engine == "cdist"), None)
    if cdist is None:
        return rows
    return [
        dataclasses.replace(row, ratio_to_cdist=cdist / row.seconds) if row.seconds is not None else row
        for row in rows
    ]
