from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import ORACLES, Manifest, Pool, SourceSpec, open_source

from .conftest import encode, pattern


def test_simulated_oracle__answers_from_the_label_column(
    tmp_path: Path, build_manifest: Callable[..., Manifest]
) -> None:
    labels = [2, 0, 1] + [None] * 7
    pq.write_table(
        pa.table({"image": [encode(pattern(0), "PNG")] * 10, "label": labels}), tmp_path / "x.parquet"
    )
    source = open_source(SourceSpec(kind="parquet", path=str(tmp_path / "x.parquet"), test_fraction=0.0))
    oracle = ORACLES["simulated"](Pool(build_manifest(source, 16, 3), source, image_size=16, channels=3))
    answer = oracle.label(np.array([2, 0, 1]))
    assert answer.dtype == np.int64
    assert answer.tolist() == [1, 2, 0]
    with pytest.raises(
        PoolError, match=r"1 of 2 queries have no label in the pool \(samples 9\); label them"
    ):
        oracle.label(np.array([0, 9]))
    with pytest.raises(PoolError, match=r"7 of 8 queries .*\(samples 3, 4, 5, 6, 7, \.\.\.\)"):
        oracle.label(np.arange(2, 10))
