"""A run directory that somebody else made: what it says is read, what it brings along is never run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

from dm2at_ray import Config
from dm2at_ray.store import RunDirectory

from .commands import Command
from .runs import copy_of_round_0

SECONDS = 240
EVIL = """
from pathlib import Path
Path({trace!r}).touch()
def factory(num_classes, in_channels, image_size):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
"""
SHADOWED = ("scipy", "sklearn", "torchvision", "rich", "pyautoattack", "numba", "sitecustomize")
"""Modules that a process may still import when it has started."""


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file that any code of the stranger's would write."""
    return tmp_path / "executed"


@pytest.fixture
def stranger(reference: Path, tmp_path: Path, trace: Path) -> Path:
    """A run whose config and model name code that lies in the run directory itself, under many names."""
    directory = copy_of_round_0(reference, tmp_path / "stranger")
    for name in ("evil", *SHADOWED):
        (directory / f"{name}.py").write_text(EVIL.format(trace=str(trace)))
    config = yaml.safe_load((directory / "config.yaml").read_text())
    config["model"]["name"] = "evil:factory"
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    model = directory / "rounds" / "0000" / "model" / "model.json"
    content = json.loads(model.read_text())
    content["spec"]["name"] = "evil:factory"
    model.write_text(json.dumps(content))
    for name in ("model.pkl", "state.pkl", "config.pkl", "driver.pkl"):
        (directory / name).write_bytes(pickle.dumps(Payload(trace)))
    return directory


def pickled(path: Path, column: str, trace: Path) -> None:
    """Let a column of a Parquet file hold pickles, in Ray Data's type for them."""
    table, kind = pq.read_table(path), ArrowPythonObjectType()
    values = pa.array([pickle.dumps(Payload(trace))] * len(table), kind.storage_type)
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, column, kind.wrap_array(values)), path)


@pytest.mark.ray
def test_status__of_a_strangers_run_runs_nothing(stranger: Path, trace: Path) -> None:
    with Command("status", ".", folder=stranger) as command:
        assert command.end(SECONDS) == 0, command.stderr
    assert not trace.exists()


@pytest.mark.ray
def test_report__of_a_strangers_run_runs_nothing(stranger: Path, trace: Path) -> None:
    with Command("report", ".", folder=stranger) as command:
        assert command.end(SECONDS) == 0, command.stderr
    assert not trace.exists()


@pytest.mark.ray
def test_evaluate__imports_no_model_because_the_run_names_it(
    stranger: Path, trace: Path, ray_address: str
) -> None:
    with Command("evaluate", ".", folder=stranger, address=ray_address) as command:
        assert command.end(SECONDS) == 2
        words = (
            f"run directory {stranger}: its model is evil:factory, code that is not part of this package; "
        )
        assert command.stderr == f"{words}give --model evil:factory if you trust that code\n"
    assert not trace.exists()


@pytest.mark.ray
def test_evaluate__standing_in_a_strangers_run_imports_nothing_from_there(
    reference: Path, stranger: Path, trace: Path, ray_address: str
) -> None:
    model = Path("rounds") / "0000" / "model" / "model.json"
    shutil.copy(reference / model, stranger / model)
    arguments = ("evaluate", ".", "--attack", "clean", "--max-images", "64")
    with Command(*arguments, folder=stranger, address=ray_address) as command:
        assert command.end(SECONDS) == 0, command.stderr
    assert (stranger / "rounds" / "0000" / "evaluations" / "clean.json").exists()
    assert not trace.exists()


@pytest.mark.ray
def test_evaluate__imports_the_model_that_the_user_names(
    stranger: Path, tmp_path: Path, trace: Path, ray_address: str
) -> None:
    """The same code, trusted: it runs, so the tests above could have failed."""
    arguments = ("evaluate", stranger, "--model", "evil:factory", "--attack", "clean", "--max-images", "64")
    with Command(*arguments, folder=stranger, address=ray_address) as command:
        command.end(SECONDS)
    assert trace.exists()


@pytest.mark.ray
def test_run__goes_by_the_config_that_the_user_gives(
    stranger: Path, reference: Path, tmp_path: Path, trace: Path, ray_address: str
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(RunDirectory(str(reference)).config().to_yaml())
    assert Config.load(own).model.name == "small_cnn"
    with Command("run", own, "--run-dir", stranger, folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 2
        assert "model.name was 'evil:factory', now 'small_cnn'" in command.stderr
    shutil.copy(reference / "config.yaml", stranger / "config.yaml")
    with Command("run", own, "--run-dir", stranger, folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 0, command.stderr
    assert not trace.exists()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("rounds/0000/labels.parquet", "label"),
        ("rounds/0000/labels.parquet", "sample_id"),
        ("rounds/0000/queries.parquet", "score"),
        ("pool/manifest/part-00000.parquet", "uri"),
    ],
)
def test_report__refuses_pickled_columns(
    file: str, column: str, reference: Path, tmp_path: Path, trace: Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(reference, directory)
    for path in (file, file.replace("0000/", "0001/")):
        pickled(directory / path, column, trace)
    with Command("report", directory, folder=tmp_path) as command:
        assert command.end(SECONDS) == 2, command.stdout
        assert f"column {column} is of type ray.data.arrow_pickled_object" in command.stderr
    assert not trace.exists()


@pytest.mark.ray
def test_run__refuses_pickled_columns(reference: Path, tmp_path: Path, trace: Path, ray_address: str) -> None:
    directory = copy_of_round_0(reference, tmp_path / "run")
    pickled(directory / "rounds" / "0000" / "labels.parquet", "sample_id", trace)
    with Command(
        "run", directory / "config.yaml", "--run-dir", directory, folder=tmp_path, address=ray_address
    ) as command:
        assert command.end(SECONDS) == 2, command.stdout
        assert "column sample_id is of type ray.data.arrow_pickled_object" in command.stderr
    assert not trace.exists()
