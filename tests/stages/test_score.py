"""Steps 3 and 4 on the digits, piece by piece in this process: a plain loop stands for Ray Data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import scipy.special
import scipy.stats
import torch

from dm2at_ray.algorithm.mixup import mixing_coefficients
from dm2at_ray.config import Config
from dm2at_ray.stages import score as score_module
from dm2at_ray.stages.batches import IdRange, unlabeled_blocks, unlabeled_ids
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.embed import FeatureBlocks, features_of
from dm2at_ray.stages.neighbors import neighbors_part
from dm2at_ray.stages.score import Acquisition, fixed_size_lists, rescore, score
from dm2at_ray.store.rounds import QUERIES_SCHEMA
from dm2at_ray.store.tensors import tensor_column

from .digits_run import DigitsRun

K = 3
NODE = "10.0.0.1"
BUDGET = 20


class FeaturesHere(FeatureBlocks):
    """The tables themselves in the place of references to them."""

    def of(self, block: IdRange) -> tuple[np.ndarray, np.ndarray]:
        table: Any = self.refs[self.blocks.index(block)]
        return features_of(table, block)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_pieces(
        pieces: pa.Table, worker: Any, context: StageContext, *args: Any, **_: Any
    ) -> Iterator[pa.Table]:
        # Backwards: pieces come in no particular order.
        for row in reversed(range(len(pieces))):
            piece = {name: pieces[name].slice(row, 1).to_numpy() for name in pieces.column_names}
            yield worker(context, *args)(piece)

    monkeypatch.setattr(score_module, "map_pieces", map_pieces)
    monkeypatch.setattr(score_module, "results", lambda parts: ((part, NODE) for part in parts))
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda value: value)


@dataclass(frozen=True)
class Scene:
    """Round 2 of the digits: the unlabeled ids, their features in float64, and neighbours drawn at random."""

    context: StageContext
    run: DigitsRun
    excluded: np.ndarray
    ids: np.ndarray
    features: np.ndarray
    neighbor_ids: np.ndarray

    def blocks(self, rows: int) -> list[IdRange]:
        return unlabeled_blocks(len(self.run.images), rows, self.context.batch_size, self.excluded)

    def feature_blocks(self, rows: int) -> FeatureBlocks:
        """Features and neighbours as the stages before leave them, cut into such blocks."""
        blocks, tables = self.blocks(rows), []
        for block in blocks:
            ids = unlabeled_ids(block, self.excluded)
            places = np.searchsorted(self.ids, ids)
            tables.append(
                pa.table(
                    {"sample_id": ids, "features": tensor_column(self.features[places].astype(np.float16))}
                )
            )
            near = self.neighbor_ids[places]
            columns = {
                "sample_id": ids,
                "neighbor_ids": pa.FixedSizeListArray.from_arrays(near.reshape(-1), K),
                "neighbor_distances": pa.FixedSizeListArray.from_arrays(np.zeros(near.size, np.float32), K),
            }
            self.context.round.files.write_table(neighbors_part(block), pa.table(columns))
        return FeaturesHere(tuple(blocks), tuple(tables), len(self.ids), self.features.shape[1])

    def run_score(self, acquisition: Acquisition, rows: int, budget: int = BUDGET) -> pa.Table:
        told: list[tuple[int, int, str | None]] = []
        table = score(
            self.context,
            acquisition,
            self.blocks(rows),
            self.excluded,
            self.feature_blocks(rows),
            budget,
            lambda done, total, node=None: told.append((done, total, node)),
        )
        assert told[-1] == (len(self.ids), len(self.ids), NODE)
        return table


@pytest.fixture
def scene(digits_run: DigitsRun) -> Scene:
    context = replace(digits_run.context(2), batch_size=64)
    excluded = np.sort(np.concatenate(digits_run.queries))
    ids = np.setdiff1d(np.arange(len(digits_run.images)), excluded)
    images = torch.from_numpy(digits_run.images[ids]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features = context.current_model().features(images).half().numpy().astype(np.float64)
    rng = np.random.default_rng(0)
    neighbor_ids = ids[rng.integers(0, len(ids), (len(ids), K))]
    return Scene(context, digits_run, excluded, ids, features, neighbor_ids)


def acquisition(strategy: str, space: str = "feature") -> Acquisition:
    config = Config.from_mapping({"query": {"strategy": strategy}, "mixup": {"alpha": 0.5, "space": space}})
    return Acquisition.of(config)


def entropy(scene: Scene, features: np.ndarray) -> np.ndarray:
    """Entropy of softmax(head(features)) in float64."""
    head = scene.context.current_model().head
    assert isinstance(head, torch.nn.Linear)
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (head.weight, head.bias))
    return scipy.stats.entropy(scipy.special.softmax(features @ weight.T + bias, axis=-1), axis=-1)


def mixed_entropy(scene: Scene) -> np.ndarray:
    """Mean entropy of each sample mixed with its neighbours, one by one."""
    mu = mixing_coefficients(scene.context.seed, 2, scene.ids, K, 0.5).numpy().astype(np.float64)
    near = scene.features[np.searchsorted(scene.ids, scene.neighbor_ids)]
    mixtures = mu[..., None] * scene.features[:, None] + (1 - mu[..., None]) * near
    return entropy(scene, mixtures).mean(axis=1)


@pytest.mark.parametrize("strategy", ["entropy", "dm2_at"])
def test_score__keeps_the_best_of_the_whole_pool(scene: Scene, strategy: str) -> None:
    expected = entropy(scene, scene.features) if strategy == "entropy" else mixed_entropy(scene)
    queries = scene.run_score(acquisition(strategy), rows=1)
    assert queries.schema.equals(QUERIES_SCHEMA)
    places = np.searchsorted(scene.ids, queries["sample_id"].to_numpy())
    np.testing.assert_allclose(queries["score"].to_numpy(), expected[places], rtol=1e-5)
    np.testing.assert_allclose(queries["score"].to_numpy(), np.sort(expected)[::-1][:BUDGET], rtol=1e-5)
    assert queries["rank"].to_pylist() == list(range(BUDGET))


def test_score__tells_what_it_went_by(scene: Scene) -> None:
    queries = scene.run_score(acquisition("dm2_at"), rows=1)
    places = np.searchsorted(scene.ids, queries["sample_id"].to_numpy())
    assert queries["neighbor_ids"].to_pylist() == scene.neighbor_ids[places].tolist()
    head = scene.context.current_model().head
    with torch.inference_mode():
        predicted = head(torch.from_numpy(scene.features[places]).float()).argmax(dim=1)
    assert queries["predicted_label"].to_pylist() == predicted.tolist()


@pytest.mark.parametrize("strategy", ["entropy", "dm2_at"])
def test_score__does_not_depend_on_the_blocks(scene: Scene, strategy: str) -> None:
    two, one = (scene.run_score(acquisition(strategy), rows) for rows in (1, 4096))
    assert len(scene.blocks(1)) == 2
    assert len(scene.blocks(4096)) == 1
    assert two.equals(one)


def test_score__of_fewer_samples_than_wanted(scene: Scene) -> None:
    queries = scene.run_score(acquisition("entropy"), rows=1, budget=10_000)
    assert sorted(queries["sample_id"].to_pylist()) == scene.ids.tolist()


def test_rescore__of_everything_is_the_score_in_input_space(scene: Scene) -> None:
    in_images = acquisition("dm2_at", space="input")
    straight = scene.run_score(in_images, rows=1)
    let_through = scene.run_score(acquisition("dm2_at"), rows=1, budget=len(scene.ids))
    told: list[tuple[int, int, str | None]] = []
    again = rescore(scene.context, in_images, let_through, BUDGET, lambda *count: told.append(count))
    assert told[-1] == (len(scene.ids), len(scene.ids), NODE)
    assert again["sample_id"].to_pylist() == straight["sample_id"].to_pylist()
    np.testing.assert_allclose(again["score"].to_numpy(), straight["score"].to_numpy(), atol=1e-5)


def test_rescore__scores_images_as_a_plain_loop_does(scene: Scene) -> None:
    let_through = scene.run_score(acquisition("dm2_at"), rows=1, budget=70)
    queries = rescore(scene.context, acquisition("dm2_at", "input"), let_through, 70, lambda *_: None)
    model = scene.context.current_model()
    for row in queries.slice(0, 5).to_pylist():
        mu = mixing_coefficients(scene.context.seed, 2, np.array([row["sample_id"]]), K, 0.5)[0].tolist()
        entropies = []
        for weight, near in zip(mu, row["neighbor_ids"], strict=True):
            pair = [scene.run.images[i].transpose(2, 0, 1) / 255 for i in (row["sample_id"], near)]
            mixture = torch.tensor(weight * pair[0] + (1 - weight) * pair[1]).float()
            with torch.inference_mode():
                logits = model(mixture[None]).double().numpy()
            entropies.append(scipy.stats.entropy(scipy.special.softmax(logits[0])))
        assert row["score"] == pytest.approx(np.mean(entropies), abs=1e-5)


def test_fixed_size_lists__chunks_slices_and_either_kind_of_list() -> None:
    rows = [[1, 2], [3, 4], [5, 6]]
    for kind in (pa.list_(pa.int64()), pa.list_(pa.int64(), 2)):
        column = pa.chunked_array([pa.array(rows[:1], kind), pa.array(rows[1:], kind)])
        assert fixed_size_lists(column).tolist() == rows
        assert fixed_size_lists(column.slice(1, 2)).tolist() == rows[1:]
        assert fixed_size_lists(column.take([2, 0])).tolist() == [rows[2], rows[0]]
