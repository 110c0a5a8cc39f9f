"""The configs that come along are valid, as they stand and as their comments say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.config import Config
from dm2at_ray.preflight import check, check_resources
from dm2at_ray.store import RunDirectory

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "configs/cluster.yaml"
ALL = [
    *sorted((ROOT / "configs").glob("*.yaml")),
    *sorted(ROOT.glob("deploy/kuberay/overlays/*/cluster/run.yaml")),
]


@pytest.fixture
def pool(tmp_path: Path) -> list[str]:
    """Overrides that put a pool of 1,200 images in the place of the bucket."""
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 32, 32, 3), dtype=np.uint8)
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    pq.write_table(pa.table({"image": images, "label": np.arange(1200) % 10}), tmp_path / "pool.parquet")
    return [f"data.path={tmp_path / 'pool.parquet'}", f"data.test_path={tmp_path / 'pool.parquet'}"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_config__loads(path: Path) -> None:
    Config.load(path)


def on_gpus(path: Path, tmp_path: Path) -> Path:
    """The config with the lines on GPUs no longer commented out."""
    text, lines = re.subn(r"^( +)# (precision|gpus_per_\w+):", r"\1\2:", path.read_text(), flags=re.MULTILINE)
    assert lines == 3
    found = tmp_path / "gpus.yaml"
    found.write_text(text)
    return found


def test_cluster_config__places_are_uris() -> None:
    config = Config.load(CLUSTER)
    assert config.data.path
    assert config.data.test_path
    assert all("://" in place for place in (config.data.path, config.data.test_path))


def test_cluster_config__passes_the_check_of_a_run(tmp_path: Path, pool: list[str]) -> None:
    config = Config.load(CLUSTER, pool)
    plan = check(config, RunDirectory(str(tmp_path / "run")))
    assert plan.sizes == {"pool": 1200, "test": 1200}
    # One small node is enough to begin on.
    check_resources(config, {"CPU": 1})


def test_cluster_config__on_gpus(tmp_path: Path) -> None:
    config = Config.load(on_gpus(CLUSTER, tmp_path))
    assert (config.compute.gpus_per_actor, config.compute.gpus_per_worker) == (1, 1)
    assert config.training.precision == "bf16"
    check_resources(config, {"CPU": 1, "GPU": 1})


@pytest.mark.parametrize("overlay", ["gpu", "spot"])
def test_overlays_config__passes_the_check_of_a_run(overlay: str, tmp_path: Path, pool: Any) -> None:
    config = Config.load(ROOT / f"deploy/kuberay/overlays/{overlay}/cluster/run.yaml", pool)
    assert check(config, RunDirectory(str(tmp_path / "run"))).model.name == "resnet18"
