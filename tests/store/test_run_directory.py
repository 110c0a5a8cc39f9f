from __future__ import annotations

from pathlib import Path

import pytest

from dm2at_ray.config import Config
from dm2at_ray.errors import RunError
from dm2at_ray.store import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "runs" / "mine"))


def test_run__before_it_is_begun(run: RunDirectory) -> None:
    assert run.name == "mine"
    assert run.status() == {}
    assert run.rounds() == []
    run.check_config(Config())
    with pytest.raises(
        RunError, match="no run there; give the directory that `dm2at run` printed"
    ) as refused:
        run.require()
    assert run.uri in str(refused.value)


def test_config__round_trip(run: RunDirectory) -> None:
    config = Config.from_mapping({"attack": {"epsilon": "4/255"}, "query": {"size": 7}})
    run.write_config(config)
    run.require()
    assert run.config() == config


def test_check_config__names_what_differs_with_both_values(run: RunDirectory) -> None:
    run.write_config(Config.from_mapping({"seed": 1, "query": {"size": 7}}))
    with pytest.raises(RunError) as refused:
        run.check_config(Config.from_mapping({"seed": 2, "query": {"size": 8, "strategy": "random"}}))
    assert str(refused.value) == (
        f"run directory {run.uri}: begun under another config (seed was 1, now 2; "
        "query.strategy was 'dm2_at', now 'random'; query.size was 7, now 8); "
        "set the fields back or give another --run-dir"
    )


def test_check_config__lets_the_work_run_elsewhere(run: RunDirectory) -> None:
    run.write_config(Config())
    run.check_config(Config.from_mapping({"compute": {"actors": 64}, "monitoring": {"enabled": False}}))


def test_rounds__in_order_with_the_final_ones_told_apart(run: RunDirectory) -> None:
    for index in (0, 2, 1):
        run.round(index).write_metrics({"round": index})
    for index in (0, 1):
        run.round(index).commit()
    run.files.write_bytes("rounds/notes.txt", b"not a round")
    assert [r.index for r in run.rounds()] == [0, 1, 2]
    assert [r.index for r in run.committed_rounds()] == [0, 1]
    assert run.files.exists("rounds/0002/metrics.json")


def test_rounds__beyond_four_digits(run: RunDirectory) -> None:
    for index in (9999, 10000, 2):
        run.round(index).commit()
    assert [r.index for r in run.rounds()] == [2, 9999, 10000]


def test_status__round_trip(run: RunDirectory) -> None:
    run.write_status({"phase": "training", "round": 2})
    assert run.status() == {"phase": "training", "round": 2}


def test_manifest_files__one_folder_a_split(run: RunDirectory) -> None:
    run.manifest_files("test").write_bytes("part-00000.parquet", b"")
    assert run.files.exists("test/manifest/part-00000.parquet")
