"""The distributed neighbour search finds what the search in one process finds, to the last bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from sklearn.datasets import load_digits

from dm2at_ray.config_sections import ComputeConfig, NeighborsConfig
from dm2at_ray.models import ModelSpec
from dm2at_ray.neighbors import Plan, Search, search
from dm2at_ray.pool import SourceSpec
from dm2at_ray.stages import neighbor_tasks
from dm2at_ray.stages.batches import IdRange, unlabeled_blocks, unlabeled_ids
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.embed import FeatureBlocks
from dm2at_ray.stages.neighbors import find_neighbors, has_neighbors, read_neighbors, search_summary
from dm2at_ray.store.tensors import tensor_column

pytestmark = pytest.mark.usefixtures("joined")

POOL = 6000
EXCLUDED = np.arange(5, POOL, 11)
K = 7


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """(6000, 64) float16: noisy pixels of the digits."""
    digits = load_digits().data
    random = np.random.default_rng(0)
    rows = digits[random.integers(0, len(digits), POOL)] + random.gamma(1.0, 2.0, (POOL, digits.shape[1]))
    return (rows / 16).astype(np.float16)


def context(directory: Path, **compute: Any) -> StageContext:
    return StageContext(
        run_uri=str(directory),
        source=SourceSpec(kind="digits"),
        model=ModelSpec(name="small_cnn", num_classes=10, channels=1, image_size=8),
        seed=3,
        round_index=0,
        batch_size=256,
        compute=ComputeConfig(cpus_per_actor=0.5, **compute),
    )


def blocks_of(features: np.ndarray, context: StageContext) -> tuple[list[IdRange], FeatureBlocks]:
    blocks = unlabeled_blocks(POOL, context.compute.block_rows, context.batch_size, EXCLUDED)
    ids = [unlabeled_ids(block, EXCLUDED) for block in blocks]
    tables = [pa.table({"sample_id": each, "features": tensor_column(features[each])}) for each in ids]
    rows = POOL - len(EXCLUDED)
    return blocks, FeatureBlocks(tuple(blocks), tuple(map(ray.put, tables)), rows, features.shape[1])


def found(features: np.ndarray, context: StageContext, **config: Any) -> tuple[pa.Table, dict[str, Any]]:
    """Search, and read what was written."""
    blocks, in_store = blocks_of(features, context)
    told = find_neighbors(context, NeighborsConfig(**config), in_store, K, lambda done, total: None)
    assert has_neighbors(context, blocks)
    assert search_summary(context.round) == told
    return pa.concat_tables([read_neighbors(context.round, block) for block in blocks]), told


@pytest.mark.parametrize("engine", ["exact", "shortlist", "routed"])
def test_find_neighbors__is_the_search_in_one_process(
    features: np.ndarray, tmp_path: Path, engine: str
) -> None:
    ids = np.setdiff1d(np.arange(POOL), EXCLUDED)
    options = {"engine": engine, "normalize": "standardize", "l1_weight": 0.5}
    alone = search(features[ids], K, sample_ids=ids, seed=3, threads=1, **options)
    table, told = found(features, context(tmp_path, actors=3, block_rows=1024), **options)
    assert table["sample_id"].to_pylist() == ids.tolist()
    if engine == "routed":
        # Products with the centroids are taken of other groups of rows, and a row between cells may move.
        same = np.array(table["neighbor_ids"].to_pylist()) == alone.ids.numpy()
        assert same.mean() > 0.98
    else:
        assert table["neighbor_ids"].to_pylist() == alone.ids.tolist()
        assert table["neighbor_distances"].to_pylist() == alone.distances.tolist()
    assert told["engine"] == engine
    assert told["audit_queries"] == 1000
    assert told["recall"] >= (1 if engine == "exact" else 0.99)
    low, high = told["recall_interval"]
    assert low < told["recall"] <= high + 1e-9


@pytest.mark.parametrize("engine", ["exact", "shortlist", "routed"])
def test_find_neighbors__does_not_depend_on_actors_and_blocks(
    features: np.ndarray, tmp_path: Path, engine: str
) -> None:
    one, _ = found(features, context(tmp_path / "1", actors=1, block_rows=16384), engine=engine)
    many, _ = found(features, context(tmp_path / "3", actors=3, block_rows=1024), engine=engine)
    assert many.equals(one)


def test_find_neighbors__widens_until_the_recall_is_met(
    features: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if `auto` stood for the routed engine, and its pilot had chosen far too few cells.
    @ray.remote(num_returns=3)
    def one_cell(_context: StageContext, plan: Plan, *_: Any) -> tuple[Plan, Plan, int]:
        chosen = replace(plan, probe_count=1)
        return chosen, chosen.for_pairs(), 1

    monkeypatch.setattr(Search, "chosen_engine", lambda *_: "routed")
    monkeypatch.setattr(neighbor_tasks, "choose_probes", one_cell)
    ctx = context(tmp_path, actors=2, block_rows=2048)
    _, told = found(features, ctx, engine="auto", recall_target=0.95)
    assert told["widenings"] > 0
    assert told["recall"] >= 0.95


def test_find_neighbors__survives_killed_processes(features: np.ndarray, tmp_path: Path) -> None:
    ctx = context(tmp_path / "killed", actors=2, block_rows=1024)
    expected, _ = found(features, context(tmp_path / "whole", actors=2, block_rows=1024), engine="exact")
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not done.is_set() and len(killed) < 3:
            for pid in searching():
                if pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        table, _ = found(features, ctx, engine="exact")
    finally:
        done.set()
        killer.join()
    assert killed
    assert table.equals(expected)


def searching() -> list[int]:
    """Processes of this machine that search a pair of blocks right now."""
    name = f"ray::{neighbor_tasks.search_blocks._function_name.rsplit('.', 1)[-1]}"
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().decode().startswith(name):
                pids.append(int(entry.name))
        except (OSError, UnicodeDecodeError):
            continue
    return pids
