"""Features as files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dm2at_ray.bench import features as module
from dm2at_ray.bench.features import FeatureFile, make_features, open_features
from dm2at_ray.bench.images import LabeledImages
from dm2at_ray.bench.network import wide_cnn
from dm2at_ray.errors import PoolError

IMAGES = LabeledImages(
    "noise",
    torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 8, 8)).astype(np.uint8)),
    np.arange(9),
    9,
)


def make(path: Path, rows: int, progress: list[str] | None = None) -> FeatureFile:
    said = [] if progress is None else progress
    return make_features(
        path, IMAGES, rows=rows, dim=6, seed=1, device=torch.device("cpu"), progress=said.append
    )


@pytest.fixture
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = wide_cnn(6, 9).eval()
    monkeypatch.setattr(module, "trained_network", lambda *_: network)


@pytest.mark.usefixtures("_untrained")
def test_make_features__first_rows_are_the_same_for_any_number_of_rows(tmp_path: Path) -> None:
    said: list[str] = []
    few = make(tmp_path / "few.npy", 1030, said)
    many = make(tmp_path / "many.npy", 2100)
    assert (few.rows, few.dim, few.source) == (
        1030,
        6,
        "collages of noise through a trained convolutional net",
    )
    np.testing.assert_allclose(np.load(few.path), np.load(many.path)[:1030], rtol=1e-4, atol=1e-6)
    assert np.load(many.path).dtype == np.float32
    assert len(np.unique(np.load(many.path), axis=0)) == 2100
    assert said[-1] == "embedding 1,030 collages"


@pytest.mark.usefixtures("_untrained")
def test_make_features__leaves_nothing_half_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "collages", break_off)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "features.npy", 10)
    assert list(tmp_path.iterdir()) == []


def test_read__maps_the_first_rows_and_keeps_the_file_as_it_is(feature_file: Path) -> None:
    file = open_features(feature_file, feature_file.parent / "scratch")
    rows = file.read(10)
    before = rows[0, 0]
    rows[0, 0] = -1
    assert (file.rows, file.dim, rows.shape) == (400, 24, (10, 24))
    assert file.read()[0, 0] == before


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_open_features__takes_any_floats(
    features: np.ndarray, tmp_path: Path, dtype: type, order: str
) -> None:
    own = np.asarray(features, dtype=dtype, order=order)
    np.save(tmp_path / "own.npy", own)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    read = open_features(tmp_path / "own.npy", scratch).read()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, own.astype(np.float32))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 2), dtype=np.int64), r"not a \.npy file of \(N, D\) floats, but int64 \(3, 2\)"),
        (np.zeros(3), r"not a \.npy file of \(N, D\) floats, but float64 \(3,\)"),
        (np.array([[0.0], [np.nan]]), r"row 1 is NaN or infinite; leave it out"),
    ],
)
def test_open_features__refuses_what_cannot_be_searched(
    array: np.ndarray, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.npy"
    np.save(path, array)
    with pytest.raises(PoolError, match=f"features {re.escape(repr(str(path)))}.*{reason}"):
        open_features(path, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"no array"])
def test_open_features__refuses_another_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "own.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PoolError, match=r"cannot be read .*; give a \.npy file of \(N, D\) floats"):
        open_features(path, tmp_path)
