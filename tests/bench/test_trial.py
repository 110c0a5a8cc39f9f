"""One training of a comparison: its labels, and that it is measured as a run is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dm2at_ray.bench.images import LabeledImages, load_split_images
from dm2at_ray.bench.robustness_settings import RobustnessSettings
from dm2at_ray.bench.trial import Trial, evaluate, labeled_set
from dm2at_ray.config import Config
from dm2at_ray.models import Classifier, ModelSpec
from dm2at_ray.stages.evaluate import EvaluationPlan, Evaluator
from dm2at_ray.stages.held_out import HeldOut


@pytest.fixture(scope="module")
def images(idx_images: Path) -> tuple[LabeledImages, LabeledImages]:
    return load_split_images(idx_images)


@pytest.fixture
def trial() -> Trial:
    return RobustnessSettings(recipes=["pgd10"], seeds=[3], labels=500).trials()[0]


@pytest.fixture(scope="module")
def model(images: tuple[LabeledImages, LabeledImages]) -> Classifier:
    """Trained for a moment, so that it is right about some images and loses some of them under attack."""
    classifier = ModelSpec("small_cnn", 10, 1, 8).build(seed=0)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9)
    pixels, labels = images[0].pixels[:, None].float() / 255, torch.from_numpy(images[0].labels)
    for begin in range(0, 1280, 64):
        rows = slice(begin, begin + 64)
        loss = torch.nn.functional.cross_entropy(classifier(pixels[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


def test_labeled_set__drawn_by_the_seed_alone(
    trial: Trial, images: tuple[LabeledImages, LabeledImages]
) -> None:
    pool, _ = images
    drawn = labeled_set(pool, trial)
    assert len(drawn) == len(set(drawn.sample_ids.tolist())) == 500
    np.testing.assert_array_equal(drawn.images[..., 0], pool.pixels.numpy()[drawn.sample_ids])
    np.testing.assert_array_equal(drawn.labels, pool.labels[drawn.sample_ids])
    same = labeled_set(pool, replace(trial, recipe="clean", training={}))
    np.testing.assert_array_equal(same.sample_ids, drawn.sample_ids)
    more = labeled_set(pool, replace(trial, labels=600))
    assert set(drawn.sample_ids) < set(more.sample_ids)
    other = labeled_set(pool, replace(trial, seed=4))
    # 500 of 1,400 twice at random have 500² / 1,400 in common, give or take 11.
    assert len(set(other.sample_ids) & set(drawn.sample_ids)) == pytest.approx(500**2 / 1400, abs=44)


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_evaluate__finds_what_the_evaluation_of_a_run_finds(
    steps: int, trial: Trial, model: Classifier, images: tuple[LabeledImages, LabeledImages]
) -> None:
    test = images[1]
    pixels, labels = test.pixels.numpy()[..., None], test.labels.astype(np.int64)
    held_out = HeldOut(np.arange(len(labels)), pixels, labels, 64, torch.device("cpu"))
    trial = replace(trial, seed=5, pgd_steps=steps)
    found = evaluate(model, held_out, trial, 0.1, 10)
    config = Config(attack={"epsilon": 0.1}, evaluation={"pgd_steps": steps})
    evaluator = Evaluator.__new__(Evaluator)
    evaluator._context = SimpleNamespace(seed=5, round_index=0, trained_model=lambda: model)
    evaluator._plan = EvaluationPlan.of(config, len(labels))
    for attack in ("clean", "fgsm", "pgd"):
        right = evaluator._right(attack, held_out)
        assert found["accuracy"][attack] == right.mean()
    assert 0 < found["accuracy"]["pgd"] < found["accuracy"]["clean"]
    other_start = evaluate(model, held_out, replace(trial, seed=6), 0.1, 10)
    assert other_start["accuracy"]["fgsm"] == found["accuracy"]["fgsm"]


def test_load_split_images__of_a_set_with_test_images(images: tuple[LabeledImages, LabeledImages]) -> None:
    assert [len(each.labels) for each in images] == [1400, 397]
    assert [each.pixels.shape for each in images] == [(1400, 8, 8), (397, 8, 8)]
    assert {each.name for each in images} == {"Fashion-MNIST"}


def test_load_split_images__of_a_set_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    pool, test = load_split_images()
    assert len(pool.labels) + len(test.labels) == 1797
    assert 250 < len(test.labels) < 450
    seen = {image.tobytes() for image in pool.pixels.numpy()}
    assert not any(image.tobytes() in seen for image in test.pixels.numpy())
