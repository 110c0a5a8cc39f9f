from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from dm2at_ray.neighbors import cells as module
from dm2at_ray.neighbors.block import TILE
from dm2at_ray.neighbors.cells import Cells, cell_count, probes_for_recall


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randn(2500, 6, generator=torch.Generator().manual_seed(0))


def line(*places: float) -> Cells:
    """Cells in one dimension."""
    return Cells(torch.tensor(places)[:, None])


@pytest.mark.parametrize(
    ("rows", "count"), [(0, 1), (99, 1), (200, 2), (15_000, 150), (1_000_000, 10_000), (4_000_000, 20_000)]
)
def test_cell_count(rows, count):
    assert cell_count(rows) == count


def test_fit__finds_the_clusters_there_are():
    # Two pairs of clusters: one for each of the two levels.
    centers = torch.tensor([[0.0, 0.0], [0.0, 20.0], [100.0, 0.0], [100.0, 20.0]]).repeat_interleave(
        100, dim=0
    )
    sample = centers + torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    means = sample.view(4, 100, 2).mean(dim=1)
    torch.testing.assert_close(Cells.fit(sample, 4).centroids, means)


@pytest.mark.parametrize("count", [1, 2, 7, 50, 400])
def test_fit__about_as_many_cells_as_asked_for(rows, count):
    sample = rows[:500]
    cells = Cells.fit(sample, count)
    assert 0.8 * count <= len(cells) <= 1.2 * count
    assert torch.isfinite(cells.centroids).all()
    if count == 1:
        torch.testing.assert_close(cells.centroids, sample.mean(dim=0, keepdim=True))


def test_fit__is_nearly_as_tight_as_scikit_learns_single_level(rows):
    cells = Cells.fit(rows, 50)
    spread = (cdist(rows, cells.centroids).min(axis=1) ** 2).sum()
    oracle = KMeans(len(cells), n_init=1, max_iter=20, random_state=0).fit(rows.numpy())
    assert spread < 1.1 * oracle.inertia_


def test_fit__rows_that_are_all_the_same():
    cells = Cells.fit(torch.ones(50, 3), 7)
    assert torch.equal(cells.centroids, torch.ones(len(cells), 3))


def test_probes__are_the_nearest_cells_the_very_nearest_first(rows):
    cells = Cells.fit(rows[:500], 40)
    probes = cells.probes(torch.arange(2500), rows, 6)
    assert probes.dtype == torch.int32
    probes = probes.numpy()
    distances = cdist(rows, cells.centroids)
    nearest = distances.argsort(axis=1)[:, :6]
    np.testing.assert_array_equal(probes[:, 0], nearest[:, 0])
    assert all(len(set(row)) == 6 for row in probes.tolist())
    picked = np.sort(np.take_along_axis(distances, probes.astype(np.int64), axis=1), axis=1)
    np.testing.assert_allclose(picked, np.take_along_axis(distances, nearest, axis=1), rtol=1e-5)


def test_probes__no_more_than_there_are_cells(rows):
    probes = line(0.0, 10.0, 4.0).probes(torch.arange(2), torch.tensor([[9.0], [1.0]]), 99)
    assert probes[:, 0].tolist() == [1, 0]
    assert probes.sort(dim=1).values.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_probes__do_not_depend_on_the_block(rows):
    cells, ids = Cells.fit(rows[:500], 40), 700 + 2 * torch.arange(2500)
    whole = cells.probes(ids, rows, 5)
    edges = [0, *(int((ids < TILE * tile).sum()) for tile in (1, 3)), 2500]
    parts = [cells.probes(ids[p:q], rows[p:q], 5) for p, q in itertools.pairwise(edges)]
    assert torch.equal(torch.cat(parts), whole)
    assert cells.probes(ids[:0], rows[:0], 5).shape == (0, 5)


def test_probes__do_not_depend_on_how_many_distances_are_taken_at_once(rows, monkeypatch):
    cells = Cells.fit(rows[:500], 40)
    whole = cells.probes(torch.arange(2500), rows, 5)
    monkeypatch.setattr(module, "DISTANCES_AT_ONCE", 40 * 100)
    assert torch.equal(cells.probes(torch.arange(2500), rows, 5), whole)


def test_rank__counts_the_cells_that_are_nearer(rows, monkeypatch):
    cells = Cells.fit(rows[:500], 40)
    cell = torch.arange(2500) % len(cells)
    distances = cdist(rows, cells.centroids)
    own = np.take_along_axis(distances, cell[:, None].numpy(), axis=1)
    expected = (distances < own).sum(axis=1)
    monkeypatch.setattr(module, "DISTANCES_AT_ONCE", 40 * 999)
    np.testing.assert_array_equal(cells.rank(rows, cell), expected)


@pytest.mark.parametrize(
    ("query", "neighbor", "count"),
    [
        # Both in the cell at 0.
        (1.0, 2.0, 1),
        # The next cell is the second nearest of either.
        (1.0, 9.0, 2),
        # From 1 to the cell at 20: 0 and 10 are nearer; from 24 to that at 0: 20, 30 and 10 are.
        (1.0, 24.0, 3),
        # The same the other way round: the rank is taken from the better side.
        (24.0, 1.0, 3),
        (1.0, 31.0, 4),
    ],
)
def test_probes_for_recall__by_hand(query, neighbor, count):
    cells = line(0.0, 10.0, 20.0, 30.0)
    assert probes_for_recall(cells, torch.tensor([[query]]), torch.tensor([[[neighbor]]]), 0.99) == count


def test_probes_for_recall__wanted_share_of_the_neighbours():
    cells = line(0.0, 10.0, 20.0, 30.0)
    queries = torch.full((100, 1), 1.0)
    near = torch.tensor([2.0, 2.0, 9.0, 31.0]).repeat(100, 1)[..., None]
    # All queries alike: no error of the mean.
    for recall, count in [(0.5, 1), (0.6, 2), (0.75, 2), (0.76, 4), (0.99, 4)]:
        assert probes_for_recall(cells, queries, near, recall) == count


def test_probes_for_recall__is_on_the_safe_side_of_the_sampling_error():
    cells = line(0.0, 10.0, 20.0, 30.0)
    # 92 of 100 queries meet their neighbour in their own cell: 0.92 less 1.64 * 0.0271 is 0.8755.
    queries = torch.full((100, 1), 1.0)
    near = torch.tensor([2.0] * 92 + [9.0] * 8)[:, None, None]
    assert probes_for_recall(cells, queries, near, 0.875) == 1
    assert probes_for_recall(cells, queries, near, 0.876) == 2


def test_probes_for_recall__pairs_within_so_many_cells_are_that_share(rows):
    """Count the pairs that `probes` lets meet, at the answer and at one less."""
    cells = Cells.fit(rows, 50)
    queries = rows[:300]
    near = torch.from_numpy(cdist(queries, rows).argsort(axis=1)[:, 1:6])
    count = probes_for_recall(cells, queries, rows[near], 0.9)
    shares = []
    for asked in (count, count - 1):
        looks = cells.probes(torch.arange(len(rows)), rows, asked).numpy()
        onward = (looks[:300, None] == looks[near][..., :1]).any(axis=2)
        back = (looks[near] == looks[:300, None, :1]).any(axis=2)
        shares.append((onward | back).mean(axis=1))
    errors = [1.64 * each.std() / np.sqrt(300) for each in shares]
    assert shares[0].mean() - errors[0] >= 0.9
    assert shares[1].mean() - errors[1] < 0.9


def test_probes__far_from_the_origin_are_those_at_the_origin():
    x = torch.randn(600, 4, generator=torch.Generator().manual_seed(0)).mul(64).round() / 64
    near, far = Cells(x[:20]), Cells(x[:20] + 4096)
    ids = torch.arange(600)
    agree = near.probes(ids, x, 1) == far.probes(ids, x + 4096, 1)
    assert agree.float().mean() > 0.99
