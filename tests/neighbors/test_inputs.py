"""What a search takes, and what it says of what it does not take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors import Neighbors, Plan, Search, backend, search
from dm2at_ray.neighbors.inputs import as_features, as_sample_ids

ENGINES = ["exact", "shortlist", "routed"]


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """(60, 5) whole numbers from 0 to 99: the same in any type; many are equal."""
    return np.random.default_rng(0).integers(0, 100, (60, 5))


def assert_same(found: Neighbors, expected: Neighbors) -> None:
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.distances.tolist() == expected.distances.tolist()


FORMATS = ["f2", "f8", "i1", "u1", "i8", "u2", "u4", "u8"]
AS = {
    "negative strides": lambda x: x.astype(np.float32)[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda x: np.frombuffer(x.astype(np.float32).tobytes(), np.float32).reshape(x.shape),
    "Fortran order": np.asfortranarray,
    "another byte order": lambda x: x.astype(">f4"),
    "a field of records": lambda x: np.rec.fromarrays([x.astype("f4"), x.astype("i1")], names="a,b").a,
    "longdouble": lambda x: x.astype(np.longdouble),
    "lists": lambda x: x.tolist(),
    "Arrow tensors": lambda x: pa.FixedShapeTensorArray.from_numpy_ndarray(x.astype(np.float16)),
    "an Arrow table": lambda x: pa.table({str(at): column for at, column in enumerate(x.T)}),
    "a gradient": lambda x: torch.tensor(x, dtype=torch.float32, requires_grad=True),
    **{name: lambda x, name=name: x.astype(name) for name in FORMATS},
    **{
        str(dtype): lambda x, dtype=dtype: torch.from_numpy(x).to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.uint16, torch.uint64, torch.int32)
    },
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", AS)
def test_search__takes(whole, engine, form):
    ids = np.random.default_rng(1).permutation(60)
    expected = search(whole.astype(np.float32), 4, sample_ids=ids, engine=engine)
    assert_same(search(AS[form](whole), 4, sample_ids=ids, engine=engine), expected)


def test_search__takes_truth_values_as_0_and_1(whole):
    assert_same(search(whole > 50, 4), search((whole > 50).astype(np.float32), 4))


IDS_AS = {
    "a list": lambda ids: ids.tolist(),
    "negative strides": lambda ids: ids[::-1].copy()[::-1],
    "read-only": lambda ids: np.frombuffer(ids.tobytes(), ids.dtype),
    "an Arrow array": pa.array,
    "u8": lambda ids: ids.astype(np.uint64),
    "i2": lambda ids: ids.astype(np.int16),
    "torch.uint64": lambda ids: torch.from_numpy(ids).to(torch.uint64),
    "torch.int32": lambda ids: torch.from_numpy(ids).to(torch.int32),
}


@pytest.mark.parametrize("form", IDS_AS)
def test_search__takes_ids(whole, form):
    ids = np.random.default_rng(1).permutation(1000)[:60]
    expected = search(whole.astype(np.float32), 4, sample_ids=ids)
    assert_same(search(whole.astype(np.float32), 4, sample_ids=IDS_AS[form](ids)), expected)


def test_search__takes_the_largest_ids_there_may_be(whole):
    ids = np.arange(60) + (2**63 - 61)
    assert ids[-1] == 2**63 - 2
    found = search(whole, 59, sample_ids=ids, block_rows=1)
    assert sorted(found.ids[0].tolist()) == ids[1:].tolist()


def test_search__of_what_may_not_be_written_to_warns_of_nothing(tmp_path):
    """In a process of its own: torch warns once only."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))
    script = f"""
import warnings
warnings.simplefilter("error")
import numpy as np
from dm2at_ray.neighbors import Block, search
x, ids = np.load({str(tmp_path / "x.npy")!r}, mmap_mode="r"), np.arange(50)
ids.flags.writeable = False
Block.make(ids, x)
print(search(x, 3, sample_ids=ids).ids.shape)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["torch.Size([50,", "3])"]
    assert not ran.stderr


def test_as_features__copies_nothing_that_torch_can_read():
    x = np.zeros((6, 4), np.float16)
    for form in (x, x[::2], x[:, 1:3], x.T):
        assert as_features(form).data_ptr() == form.ctypes.data
    x.flags.writeable = False
    assert as_features(x).data_ptr() == x.ctypes.data
    assert not x.flags.writeable


@pytest.fixture
def _float64_by_default():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.mark.usefixtures("_float64_by_default")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("numba", [True, False])
def test_search__whatever_the_default_dtype_is(monkeypatch, whole, engine, numba):
    if not numba:
        monkeypatch.setattr(backend, "_numba_works", lambda: False)
    found = search(whole, 4, engine=engine, normalize="standardize")
    torch.set_default_dtype(torch.float32)
    assert_same(found, search(whole, 4, engine=engine, normalize="standardize"))


@pytest.mark.usefixtures("_float64_by_default")
def test_encode__limits_are_float32_whatever_the_default_dtype_is(whole):
    plan = Plan.fit(Search(4, "exact"), np.arange(60), whole, 60)
    block = plan.block(np.arange(60), whole)
    assert plan.guide(block).dtype == torch.float32
    assert plan.reference.limit.dtype == torch.float32


@pytest.mark.parametrize("k", [np.int64(4), np.uint8(4), torch.tensor(4)])
def test_search__takes_any_whole_number(whole, k):
    found = search(whole, k, block_rows=np.int32(30), threads=np.int64(2), seed=np.int64(0))
    assert_same(found, search(whole, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1.5}, "k=1.5 must be a whole number"),
        ({"k": "4"}, "k='4' must be a whole number"),
        ({"k": None}, "k=None must be a whole number"),
        ({"block_rows": 1e5}, "block_rows=100000.0 must be a whole number"),
        ({"threads": 1.5}, "threads=1.5 must be a whole number"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"threads": -2}, "threads=-2 must be at least 1"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"sample_ids": np.arange(60, dtype=np.uint64) + np.uint64(2**63)}, "is above 2.63 - 2"),
        ({"sample_ids": torch.arange(-60, 0).view(torch.uint64)}, "is above 2.63 - 2"),
        # What merging marks the missing by.
        ({"sample_ids": np.arange(60) + (2**63 - 60)}, "sample id 9223372036854775807 is above"),
    ],
)
def test_search__refuses_options_by_name_and_value(whole, options, message):
    with pytest.raises(ConfigError, match=message):
        search(whole, **{"k": 4, **options})


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((4, 2), np.complex64), "features must be dense real numbers, not torch.complex64"),
        (torch.ones(4, 2).to_sparse(), "not torch.float32 in torch.sparse_coo"),
        (np.ones((4, 2), object), "features must be an array of numbers, not of object"),
        (np.full((4, 2), "1.0"), "features must be an array of numbers, not of <U3"),
        (None, "features must be an array of numbers, not of object"),
        ([[1.0, 2.0], [3.0]], "features are no array of numbers: "),
        ([1.0, 2.0], r"features must be \(N, D\), not \(2,\)"),
    ],
)
def test_search__refuses_features_that_are_no_real_numbers(features, message):
    with pytest.raises(ValueError, match=message):
        search(features, 1)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(4.0), "sample_ids must be integers, not torch.float64"),
        ([0.5, 1.5, 2.5, 3.5], "sample_ids must be integers, not torch.float64"),
        (np.ones(4, bool), "sample_ids must be integers, not torch.bool"),
        (["a", "b", "c", "d"], "sample_ids must be an array of numbers, not of <U1"),
        ([2**64, 1, 2, 3], "sample_ids must be an array of numbers, not of object"),
    ],
)
def test_search__refuses_ids_that_are_no_integers(ids, message):
    with pytest.raises(ValueError, match=message):
        search(np.ones((4, 2)), 1, sample_ids=ids)


def test_as_sample_ids__of_nothing():
    assert as_sample_ids([]).dtype == torch.int64
