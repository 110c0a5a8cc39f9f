"""A pool, and a run on it, in an object store: Amazon's and Google's, by servers on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dm2at_ray import Config, run
from dm2at_ray.pool.content import content_hash
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.status import read_status
from dm2at_ray.store import RunDirectory

from ..conftest import S3_SECRET
from .commands import tiny_config
from .test_sources import COLORS, break_three, write_folder


@pytest.mark.ray
def test_store__holds_the_images_the_pool_and_the_run(
    joined: str,
    any_bucket: Any,
    dm2at: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "images", each=20)
    reasons = break_three(folder)
    any_bucket.put_folder(folder, "images")
    images, pool, run_dir = (f"{any_bucket.uri}/{name}" for name in ("images", "pool", "run"))

    build = ("pool", "build", images, pool, "--image-size", 12, "--channels", 3)
    code, stdout, stderr = dm2at(*build)
    assert (code, stderr) == (0, "")
    assert "images: 63, of them 3 set aside, 0 duplicates, 63 with a label" in stdout
    directory = PoolDirectory.at(pool)
    rows = pa.concat_tables(list(directory.parts(directory.catalog()))).to_pylist()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [row["origin"].partition("/images/")[2] for row in rows] == [
        path.relative_to(folder).as_posix() for path in files
    ]
    assert {Path(row["origin"]).name: row["reason"] for row in rows if row["reason"]} == reasons
    assert [row["hash"] for row in rows if not row["reason"]] == [
        content_hash(path.read_bytes()) for path in files if path.name not in reasons
    ]
    assert sorted(key for key in any_bucket.objects() if not key.startswith("images/")) == [
        "pool/manifest/part-00000.parquet",
        "pool/pool.json",
        "pool/shards/00000.parquet",
    ]
    again = dm2at(*build)
    assert (again.code, again.stdout.splitlines()[0]) == (0, f"{directory.place.uri} is packed already")
    assert dm2at("pool", "check", pool).code == 0

    config = tiny_config(
        data={"source": "pool", "path": pool, "max_rejected_fraction": 0.2},
        query={"initial": 12, "size": 6},
        monitoring={"enabled": False},
    )
    result = run(Config.from_mapping(config), run_dir)
    assert [metrics["labeled"] for metrics in result.rounds] == [12, 18]
    assert read_status(run_dir)["phase"] == "done"
    directory_of_run = RunDirectory(run_dir)
    assert [round_.index for round_ in directory_of_run.committed_rounds()] == [0, 1]
    assert "run/driver.json" not in any_bucket.objects()
    listed = directory_of_run.manifest_files("pool").read_table("part-00000.parquet").to_pylist()
    for answer in directory_of_run.round(1).labels().to_pylist():
        entry = listed[answer["sample_id"]]
        assert entry["label"] == answer["label"]
        image = next(
            row
            for row in rows
            if f"{directory.place.uri}/{row['uri']}" == entry["uri"] and row["row"] == entry["row"]
        )
        assert Path(image["origin"]).parent.name == list(COLORS)[answer["label"]]
    assert not any(S3_SECRET.encode() in data for data in any_bucket.objects().values())
