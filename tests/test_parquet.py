"""Parquet files whose columns would run code when they are read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import RunError
from dm2at_ray.parquet import ForeignTypeError, open_parquet
from dm2at_ray.store.files import Files
from dm2at_ray.store.tensors import tensor_column


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._target,)


def pickles(target: Path) -> pa.Array:
    """A column of Ray Data's type for any Python object."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    kind = ArrowPythonObjectType()
    return kind.wrap_array(pa.array([pickle.dumps(Payload(target))], kind.storage_type))


def nested(column: pa.Array, how: str) -> pa.Array:
    if how == "list":
        return pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), column)
    if how == "struct":
        return pa.StructArray.from_arrays([column], names=["inside"])
    return column


def test_pickles__run_when_pyarrow_reads_them_by_itself(tmp_path: Path) -> None:
    """What the tests below are about: without this they would hold for any reader."""
    pq.write_table(pa.table({"label": pickles(tmp_path / "ran")}), tmp_path / "x.parquet")
    pq.ParquetFile(tmp_path / "x.parquet").read()["label"].to_pylist()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["plain", "list", "struct"])
def test_open_parquet__refuses_pickles_unread(how: str, tmp_path: Path) -> None:
    table = pa.table({"id": [1], "label": nested(pickles(tmp_path / "ran"), how)})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ForeignTypeError, match=r"column label is of type ray\.data\.arrow_pickled_object"):
        open_parquet(tmp_path / "x.parquet")
    assert not (tmp_path / "ran").exists()


def test_open_parquet__refuses_a_type_that_this_process_does_not_know(tmp_path: Path) -> None:
    field = pa.field("label", pa.binary(), metadata={b"ARROW:extension:name": b"somebody.elses"})
    pq.write_table(pa.table([[b"x"]], schema=pa.schema([field])), tmp_path / "x.parquet")
    with pytest.raises(ForeignTypeError, match=r"column label is of type somebody\.elses"):
        open_parquet(tmp_path / "x.parquet")


def test_read_table__refuses_pickles_in_one_line(tmp_path: Path) -> None:
    files = Files.at(str(tmp_path))
    files.write_table("labels.parquet", pa.table({"label": pickles(tmp_path / "ran")}))
    with pytest.raises(RunError, match=r"labels\.parquet: column label is of type"):
        files.read_table("labels.parquet", ["label"])
    assert not (tmp_path / "ran").exists()


def test_open_parquet__takes_tensors_and_plain_values(tmp_path: Path) -> None:
    from ray.data.extensions import ArrowTensorArray

    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    table = pa.table(
        {
            "ours": tensor_column(images),
            "rays": ArrowTensorArray.from_numpy(images),
            "names": pa.array(["a", "b"]).dictionary_encode(),
            "lists": [[1], []],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert open_parquet(tmp_path / "x.parquet").read().equals(table)
