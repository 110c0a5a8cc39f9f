"""What is left where numba is not."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors import backend
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.quantizer import Quantizer
from dm2at_ray.neighbors.topk import neighbors_of


@pytest.fixture
def _no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    backend._numba_works.cache_clear()
    yield
    backend._numba_works.cache_clear()


@pytest.mark.usefixtures("_no_numba")
def test_backend__without_numba_warns_once_and_answers_the_same(encode, digits_features):
    x = digits_features[:200]
    whole = np.array([[0, 200, 0, 200]])
    lists = np.arange(200), np.array([[0, 200, 0, 200, 0, 200]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        by = Quantizer.fit(torch.from_numpy(x))
        a = encode(x, by)
        options = {"k": 7, "metric": Metric(), "step": by.step}
        found = [
            backend.search_ranges(a, a, whole, **options)[0],
            backend.search_lists(a, a, *lists, **options)[0],
        ]
        measured = backend.measure(a.features, a.features, Metric())
    (warning,) = caught
    assert "numba cannot be imported" in str(warning.message)
    assert "pip install numba" in str(warning.message)
    d = cdist(x.astype(np.float64), x.astype(np.float64), "cityblock")
    d += cdist(x.astype(np.float64), x.astype(np.float64))
    np.testing.assert_allclose(measured, d, rtol=2e-6)
    np.fill_diagonal(d, np.inf)
    for keys in found:
        distances = neighbors_of(keys, torch.arange(200)).distances
        np.testing.assert_allclose(distances, np.sort(d, axis=1)[:, :7], rtol=2e-6)


def test_package__is_imported_and_searches_without_numba():
    """In a process of its own: nothing may have imported the kernels before."""
    script = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
import warnings
import numpy as np
from dm2at_ray.neighbors import search
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    for engine in ("exact", "shortlist", "routed", "auto"):
        found = search(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), 1, engine=engine)
        print(found.ids.flatten().tolist())
print(len(caught), caught[0].category.__name__)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["[2, 2, 0]"] * 4 + ["1 UserWarning"]
