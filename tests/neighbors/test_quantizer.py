from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors import backend, portable
from dm2at_ray.neighbors.quantizer import Quantizer


def quantized(low: list[float], step: float) -> Quantizer:
    return Quantizer(torch.tensor(low, dtype=torch.float64), step)


def assert_bound(x: np.ndarray, by: Quantizer) -> None:
    """Hold |x - y|_1 >= step * (SAD - e_x - e_y) for all pairs, in float64."""
    codes, residuals = by.encode(torch.from_numpy(x))
    sad = cdist(codes.double(), codes.double(), "cityblock")
    e = residuals.double().numpy()
    l1 = cdist(x.astype(np.float64), x.astype(np.float64), "cityblock")
    # float64's own rounding, of numbers as large as the features.
    rounding = 1e-15 * x.shape[1] * (np.abs(x).max() + float(by.low.abs().max()))
    assert (by.step * (sad - e[:, None] - e) <= l1 * (1 + 1e-12) + rounding).all()


@pytest.mark.usefixtures("each_backend")
def test_encode__by_hand():
    codes, residuals = quantized([0.0, 0.0, 0.0], 1.0).encode(torch.tensor([[0.25, 300.0, -2.0]]))
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [[0, 255, 0]]
    assert residuals.tolist() == pytest.approx([0.25 + 45 + 2])
    codes, residuals = quantized([-1.0, 10.0], 0.5).encode(torch.tensor([[1.0, 11.2], [-1.0, 10.0]]))
    assert codes.tolist() == [[4, 2], [0, 0]]
    assert residuals.tolist() == pytest.approx([0.4, 0.0], rel=1e-6)


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=150, deadline=None)
@given(
    x=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 9)),
        elements=st.one_of(
            st.floats(-1e4, 1e4, width=32),
            st.floats(-(2.0**-13), 2.0**-13, width=32),
            st.sampled_from([0.0, 1.0]),
        ),
    ),
    fitted_on=st.integers(1, 6),
)
def test_encode__bound_holds_whatever_the_features(x, fitted_on):
    # Rows that the range was not fitted on are clipped.
    assert_bound(x, Quantizer.fit(torch.from_numpy(x[:fitted_on])))


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.integers(1, 100),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    step=st.sampled_from([None, 1e-3, 1.0, 1e3]),
)
def test_encode__bound_holds_on_many_dimensions_at_any_step(seed, dims, scale, step):
    random = np.random.default_rng(seed)
    x = (scale * random.standard_t(2, (30, dims))).astype(np.float32)
    low = (scale * random.standard_normal(dims)).tolist()
    assert_bound(x, Quantizer.fit(torch.from_numpy(x)) if step is None else quantized(low, scale * step))


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_encode__residuals_are_rounded_up_and_no_more(scale):
    x = (scale * np.random.default_rng(0).standard_normal((500, 13))).astype(np.float32)
    by = Quantizer.fit(torch.from_numpy(x[:100]))
    codes, residuals = by.encode(torch.from_numpy(x))
    shown = by.low.numpy() + by.step * codes.numpy().astype(np.float64)
    exact = np.abs(x - shown).sum(axis=1) / by.step
    assert (residuals.double().numpy() >= exact).all()
    np.testing.assert_allclose(residuals, exact, rtol=1e-6)


def test_encode__each_row_by_itself(each_backend, monkeypatch):
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    by = Quantizer.fit(x)
    codes, residuals = by.encode(x)
    assert torch.equal(x, torch.randn(50, 5, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(portable, "ENCODED_AT_ONCE", 7 * 5)
    torch.set_num_threads(3)
    for rows in (slice(None), slice(31, 32), slice(3, 20)):
        for part, whole in zip(by.encode(x[rows]), (codes[rows], residuals[rows]), strict=True):
            assert torch.equal(part, whole)


def test_encode__backends_give_the_same_codes(monkeypatch):
    pytest.importorskip("numba")
    # Halves lie between two codes.
    x = torch.randint(-10, 600, (300, 33), generator=torch.Generator().manual_seed(0)) / 2
    by = quantized([0.0] * 33, 1.0)
    monkeypatch.setattr(backend, "_numba_works", lambda: True)
    codes, residuals = by.encode(x)
    monkeypatch.setattr(backend, "_numba_works", lambda: False)
    assert torch.equal(by.encode(x)[0], codes)
    torch.testing.assert_close(by.encode(x)[1], residuals)


@pytest.mark.usefixtures("each_backend")
def test_encode__no_rows():
    codes, residuals = quantized([0.0, 0.0], 1.0).encode(torch.zeros(0, 2))
    assert (codes.shape, residuals.shape) == ((0, 2), (0,))


@pytest.mark.parametrize("value", [0.0, 1e-4, 1e4])
def test_fit__constant_features(value):
    x = torch.full((9, 4), value)
    by = Quantizer.fit(x)
    codes, residuals = by.encode(x)
    assert by.step > 0
    assert not codes.any()
    assert not residuals.any()
    # Rows unlike the sample are still bounded.
    assert_bound(np.array([[value] * 4, [value + 1, value - 300, value, 7]], np.float32), by)


def test_fit__each_dimension_starts_at_its_own_least():
    x = torch.tensor([[0.0, 1000.0], [255.0, 1000.0], [100.0, 1000.0]])
    by = Quantizer.fit(x)
    assert by.low.tolist() == [0, 1000]
    assert by.step == pytest.approx(1.0)
    assert by.encode(x)[0].tolist() == [[0, 0], [255, 0], [100, 0]]


def test_fit__scale_of_the_features_changes_no_code():
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    by = Quantizer.fit(x)
    codes, residuals = by.encode(x)
    for scale in (2.0**-13, 2.0**13):
        scaled = Quantizer.fit(x * scale)
        assert scaled.step == pytest.approx(by.step * scale, rel=1e-12)
        assert torch.equal(scaled.encode(x * scale)[0], codes)
        torch.testing.assert_close(scaled.encode(x * scale)[1], residuals)


@pytest.mark.parametrize("tail", ["none", "light", "heavy"])
def test_fit__no_other_range_leaves_less(tail):
    random = np.random.default_rng(0)
    x = {
        "none": random.random((1000, 10)),
        "light": random.standard_normal((1000, 10)),
        "heavy": random.standard_t(2, (1000, 10)),
    }[tail].astype(np.float32)
    by = Quantizer.fit(torch.from_numpy(x))

    def error(each: Quantizer) -> float:
        codes = np.rint((x - each.low.numpy()) / each.step).clip(0, 255)
        return float(np.abs(x - each.low.numpy() - each.step * codes).mean())

    above = np.sort((x.astype(np.float64) - x.min(axis=0)).ravel())
    ranges = [above[int(share * len(above))] for share in (0.99, 0.995, 0.999, 0.9995, 0.9999)] + [above[-1]]
    assert error(by) <= min(error(Quantizer(by.low, width / 255)) for width in ranges) * (1 + 1e-9)
    assert (by.step * 255 > 0.9 * above[-1]) == (tail == "none")
