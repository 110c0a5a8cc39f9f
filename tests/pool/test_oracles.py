from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Manifest, Pool, SimulatedOracle, SourceSpec, open_source

from .conftest import encode, pattern


def test_simulated_oracle__answers_from_the_label_column(
    tmp_path: Path, build_manifest: Callable[..., Manifest]
) -> None:
    labels = [2, 0, 1] + [None] * 7
    pq.write_table(
        pa.table({"image": [encode(pattern(0), "PNG")] * 10, "label": labels}), tmp_path / "x.parquet"
    )
    source = open_source(SourceSpec(kind="parquet", path=str(tmp_path / "x.parquet"), test_fraction=0.0))
    oracle = SimulatedOracle(Pool(build_manifest(source, 16, 3), source, image_size=16, channels=3))
    answer = oracle.label(np.array([2, 0, 1]))
    assert answer.dtype == np.int64
    assert answer.tolist() == [1, 2, 0]
    with pytest.raises(
        PoolError, match=r"1 of 2 queries have no label in the pool \(samples 9\); label them"
    ):
        oracle.label(np.array([0, 9]))
    with pytest.raises(PoolError, match=r"7 of 8 queries .*\(samples 3, 4, 5, 6, 7, \.\.\.\)"):
        oracle.label(np.arange(2, 10))


def test_simulated_oracle__mistakes_a_share_of_the_samples_always_in_the_same_way(
    digits: Pool,
) -> None:
    ids = np.arange(digits.size)
    truth = digits.labels(ids)
    noisy = SimulatedOracle(digits, noise=0.3, num_classes=10, seed=1)
    answers = noisy.label(ids)
    wrong = answers != truth
    # Five standard deviations of a binomial.
    assert abs(wrong.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(ids))
    steps = (answers - truth)[wrong] % 10
    assert set(steps) == set(range(1, 10)), "any other class, and never the right one"
    few = np.array([700, 3, 41])
    np.testing.assert_array_equal(noisy.label(few), answers[few])
    another = SimulatedOracle(digits, noise=0.3, num_classes=10, seed=2).label(ids)
    assert (another != answers).any()
    np.testing.assert_array_equal(SimulatedOracle(digits).label(ids), truth)


@pytest.fixture
def digits(build_manifest: Callable[..., Manifest]) -> Pool:
    source = open_source(SourceSpec(kind="digits"))
    return Pool(build_manifest(source, 8, 1), source, image_size=8, channels=1)
