"""The selected ids depend on the pool, the model and the seed, not on the number of actors or blocks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.special
import scipy.stats
import torch
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from dm2at_ray import Config
from dm2at_ray.algorithm.mixup import mixing_coefficients

from .runs import copy_of_round_0, labeled_ids, round_of, select_round_1, tiny_config

TIE = 1e-5
"""Scores closer than this may change places where kernels round differently."""

ONE_ACTOR = {"actors": 1, "block_rows": 16384}
THREE_ACTORS = {"actors": 3, "block_rows": 1024}

WAYS: dict[str, dict[str, Any]] = {
    "features": {"neighbors": {"engine": "exact"}},
    "images": {"mixup": {"space": "input"}, "neighbors": {"k": 3}},
    "images, prescreened": {"mixup": {"space": "input", "prescreen": 2}, "neighbors": {"k": 3}},
    "margin": {"query": {"strategy": "margin"}},
}

Select = Callable[..., pa.Table]


@pytest.fixture(scope="module")
def select(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Select:
    """Takes sections of a config to the queries that follow the reference's round 0; each is made once."""
    made: dict[Config, pa.Table] = {}

    def make(**sections: dict[str, Any]) -> pa.Table:
        sections.setdefault("model", {"batch_size": 256})
        config = tiny_config(**sections)
        if config not in made:
            directory = copy_of_round_0(reference, tmp_path_factory.mktemp("select") / "run")
            made[config] = select_round_1(config, directory)
        return made[config]

    return make


@pytest.mark.parametrize("way", WAYS)
def test_select__is_the_same_with_any_actors_and_blocks(select: Select, way: str) -> None:
    one = select(**WAYS[way], compute=ONE_ACTOR)
    assert one.num_rows == 75
    assert_same_queries(select(**WAYS[way], compute=THREE_ACTORS), one)


def test_select__differs_with_another_way(select: Select) -> None:
    tables = [select(**sections, compute=ONE_ACTOR) for sections in WAYS.values()]
    # A prescreened selection may be the whole one.
    assert len({tuple(table["sample_id"].to_pylist()) for table in tables}) >= 3


def test_select__swaps_only_near_ties_with_another_batch_size(select: Select) -> None:
    way = WAYS["features"]
    large, small = (
        dict(zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True))
        for table in (select(**way, compute=ONE_ACTOR, model={"batch_size": size}) for size in (256, 128))
    )
    assert len(large) == len(small)
    swapped = [large.get(i, small.get(i)) for i in large.keys() ^ small.keys()]
    assert all(abs(score - min(large.values())) < TIE for score in swapped), swapped


@pytest.mark.parametrize("engine", ["exact", "shortlist", "routed"])
def test_select__is_the_same_over_thirteen_blocks(many_blocks: Path, tmp_path: Path, engine: str) -> None:
    tables = []
    for compute in (ONE_ACTOR, THREE_ACTORS):
        config = tiny_config(**parquet_sections(many_blocks), compute=compute, neighbors={"engine": engine})
        directory = copy_of_round_0(many_blocks / "run", tmp_path / str(compute["actors"]))
        tables.append(select_round_1(config, directory))
        parts = len(list((directory / "rounds/0001/neighbors").glob("ids-*.parquet")))
        assert parts == (1 if compute is ONE_ACTOR else 13)
    assert_same_queries(*tables)


def test_select__agrees_with_an_independent_selection(select: Select, reference: Path) -> None:
    k = 10
    queries = select(neighbors={"engine": "exact", "k": k}, compute=THREE_ACTORS)
    ids, h, weight, bias = unlabeled_features(reference)

    distances = cdist(h, h, "cityblock") + cdist(h, h)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1, kind="stable")[:, :k]
    mu = mixing_coefficients(0, 1, ids, k, alpha=1.0).double().numpy()[..., None]  # (N, k, 1)
    mixtures = mu * h[:, None] + (1 - mu) * h[near]  # (N, k, D)
    probabilities = scipy.special.softmax(mixtures @ weight.T + bias, axis=-1)
    scores = scipy.stats.entropy(probabilities, axis=-1).mean(axis=1)

    best = np.argsort(-scores)[: queries.num_rows]
    chosen = np.searchsorted(ids, queries["sample_id"].to_numpy())
    swapped = np.setxor1d(best, chosen)
    assert np.abs(scores[swapped] - scores[best[-1]]).max(initial=0) < TIE
    np.testing.assert_allclose(queries["score"].to_numpy(), scores[chosen], atol=TIE)
    np.testing.assert_allclose(
        np.array(queries["neighbor_distances"].to_pylist()),
        np.take_along_axis(distances, near, axis=1)[chosen],
        rtol=1e-5,
    )
    neighbors = np.searchsorted(ids, np.array(queries["neighbor_ids"].to_pylist()))
    for row, found, expected in zip(chosen, neighbors, near[chosen], strict=True):
        differing = np.setxor1d(found, expected)
        np.testing.assert_allclose(distances[row, differing], distances[row, expected[-1]], rtol=1e-5)


def assert_same_queries(one: pa.Table, other: pa.Table) -> None:
    """Every column is the same, bit for bit: ids, ranks, scores, predictions, neighbours, distances."""
    assert one["sample_id"].to_pylist() == other["sample_id"].to_pylist()
    assert one.equals(other)


def unlabeled_features(directory: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids (N,), float16-rounded features (N, D) of U after round 0, the head's weight (C, D), bias (C,)."""
    manifest = pq.read_table(directory / "pool/manifest/part-00000.parquet")
    ids = np.setdiff1d(manifest["sample_id"].to_numpy(), labeled_ids(directory, rounds=1))
    pixels = np.rint(load_digits().images[manifest["row"].to_numpy()[ids]] * (255 / 16)) / 255  # (N, 8, 8)
    round_0 = round_of(directory, 0)
    model = round_0.model_spec().build(seed=0)
    model.load_state_dict(round_0.weights())
    with torch.inference_mode():
        h = model.eval().features(torch.tensor(pixels[:, None], dtype=torch.float32)).half()
        return ids, *(t.double().numpy() for t in (h, model.head.weight, model.head.bias))


@pytest.fixture(scope="module")
def many_blocks(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Parquet pool of 12,579 noisy digits and, in `run`, the reference's round 0 on it.

    So many that a block's partial neighbours are merged in a tree.
    Of round 0 a selection reads the model and the labeled ids only.
    """
    folder = tmp_path_factory.mktemp("many")
    digits = load_digits()
    noise = np.random.default_rng(5).integers(0, 60, (7, *digits.images.shape))
    images = (digits.images * 12 + noise).astype(np.uint8).reshape(-1, 8, 8)
    labels = np.tile(digits.target, 7)
    pool = pa.table({"image": [png(image) for image in images], "label": labels})
    pq.write_table(pool, folder / "pool.parquet")
    pq.write_table(pa.table({"image": [png(images[0])], "label": [0]}), folder / "test.parquet")
    copy_of_round_0(reference, folder / "run")
    for split in ("pool", "test"):
        for path in (folder / "run" / split).rglob("*.*"):
            path.unlink()
    # Lists the pool, so that each selection need not.
    select_round_1(tiny_config(**parquet_sections(folder), query={"strategy": "random"}), folder / "run")
    return folder


def parquet_sections(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        "data": {
            "source": "parquet",
            "path": str(folder / "pool.parquet"),
            "test_path": str(folder / "test.parquet"),
            "image_size": 8,
            "channels": 1,
        },
        "model": {"batch_size": 256},
    }


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
