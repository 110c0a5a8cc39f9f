"""What is wrong is said before any work is done: the field, its value, the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, ModelError, PoolError, UserError
from dm2at_ray.preflight import check, check_resources
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RunDirectory

DIGITS = 1797


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


def folder_of_images(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 12) -> str:
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((10, 12, 3), index, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:02d}.png")
    return str(root)


def refusal(values: dict[str, Any], run: RunDirectory, kind: type[UserError] = ConfigError) -> str:
    with pytest.raises(kind) as refused:
        check(Config.from_mapping(values), run)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_check__finds_what_the_driver_needs(run: RunDirectory) -> None:
    plan = check(Config(), run)
    assert plan.class_names == [str(digit) for digit in range(10)]
    assert sum(plan.sizes.values()) == DIGITS
    # One image in five is held out, give or take the luck of 1,797 draws (four standard deviations).
    assert abs(plan.sizes["test"] - 0.2 * DIGITS) < 4 * np.sqrt(DIGITS * 0.2 * 0.8)
    assert (plan.source.image_size, plan.source.channels) == (8, 1)
    assert (plan.model.num_classes, plan.model.channels, plan.model.image_size) == (10, 1, 8)
    assert not run.files.exists(""), "nothing is written yet"


def test_check__the_configs_own_image_shape_counts(run: RunDirectory) -> None:
    plan = check(Config.from_mapping({"data": {"image_size": 16, "channels": 3}}), run)
    assert (plan.source.image_size, plan.source.channels) == (16, 3)
    assert (plan.model.image_size, plan.model.channels) == (16, 3)


def test_check__does_not_list_again_what_is_listed(run: RunDirectory) -> None:
    run.files.write_json("pool/summary.json", {"size": 123, "rejected": 0, "labeled": 123})
    sizes = check(Config(), run).sizes
    assert sizes["pool"] == 123
    assert sizes["test"] > 0


@pytest.mark.parametrize(
    ("values", "start", "mend"),
    [
        ({"query": {"strategy": "badge"}}, "query.strategy = badge: unknown; use one of ", "dm2_at"),
        ({"query": {"initial": 5000}}, "query.initial = 5000: more than the 1,4", "lower it"),
        ({"query": {"size": 5000}}, "query.size = 5000: more than the 1,4", "lower it"),
        ({"neighbors": {"k": 1797}}, "neighbors.k = 1797: not less than the 1,4", "lower it"),
    ],
)
def test_check__holds_the_config_against_the_pool(
    run: RunDirectory, values: dict[str, Any], start: str, mend: str
) -> None:
    line = refusal(values, run)
    assert line.startswith(start)
    assert mend in line


@pytest.mark.parametrize(("field", "limit"), [("query.initial", 0), ("query.size", 0), ("neighbors.k", -1)])
def test_check__takes_as_much_as_the_pool_has(run: RunDirectory, field: str, limit: int) -> None:
    section, name = field.split(".")
    pool = check(Config(), run).sizes["pool"]
    check(Config.from_mapping({section: {name: pool + limit}}), run)
    refusal({section: {name: pool + limit + 1}}, run)


def test_check__a_path_that_is_not_there(run: RunDirectory, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    for source in ("image_folder", "parquet", "fashion_mnist"):
        line = refusal({"data": {"source": source, "path": missing}}, run, PoolError)
        assert line.startswith("data.path")
        assert missing in line


def test_check__an_unknown_model(run: RunDirectory) -> None:
    line = refusal({"model": {"name": "resnet19"}}, run, ModelError)
    assert line.startswith("model.name = resnet19: ")
    assert "resnet18" in line


def test_check__statistics_that_do_not_fit_the_channels(run: RunDirectory) -> None:
    line = refusal({"model": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}, run, ModelError)
    assert line.startswith("model.mean = (0.1, 0.2, 0.3): ")


def test_check__weights_that_are_not_there(run: RunDirectory, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.safetensors")
    line = refusal({"model": {"weights": missing}}, run, ModelError)
    assert line.startswith(f"model.weights = {missing}: ")


def test_check__image_size_unknown(run: RunDirectory, tmp_path: Path) -> None:
    path = folder_of_images(tmp_path / "images")
    small: dict[str, Any] = {"query": {"initial": 4, "size": 2}, "neighbors": {"k": 2}}
    data: dict[str, Any] = {"source": "image_folder", "path": path}
    assert refusal({"data": data, **small}, run) == (
        "data.image_size = None: images of the source image_folder may have any; set it, e.g. 32"
    )
    assert refusal({"data": {**data, "image_size": 8}, **small}, run) == (
        "data.channels = None: images of the source image_folder may have any; set it, e.g. 3"
    )
    plan = check(Config.from_mapping({"data": {**data, "image_size": 8, "channels": 3}, **small}), run)
    assert plan.class_names == ["cat", "dog"]
    assert sum(plan.sizes.values()) == 24


def test_check__a_pool_without_two_classes(run: RunDirectory, tmp_path: Path) -> None:
    path = folder_of_images(tmp_path / "images", classes=("cat",))
    line = refusal({"data": {"source": "image_folder", "path": path}}, run)
    assert "no labels of two classes or more" in line
    assert line.endswith("give a pool with labels, or let people label by query.oracle=files")
    people = refusal({"data": {"source": "image_folder", "path": path}, "query": {"oracle": "files"}}, run)
    assert people == (
        "data.class_names = None: neither the pool nor the test images name two classes or more; list the "
        "classes that people choose among, e.g. [cat, dog]"
    )


def test_source_spec__workers_can_open_it_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"source": "parquet", "path": "pool", "test_path": "s3://bucket/test"}
    spec = source_spec(Config.from_mapping({"data": data, "seed": 5}))
    assert (spec.path, spec.test_path, spec.seed) == (str(tmp_path / "pool"), "s3://bucket/test", 5)


@pytest.mark.parametrize(
    ("compute", "workers", "line"),
    [
        (
            {"gpus_per_actor": 1},
            1,
            "compute.gpus_per_actor = 1: 1 GPUs are more than the 0 of the cluster; "
            "lower it, or join a larger cluster",
        ),
        (
            {"gpus_per_worker": 0.5},
            4,
            "compute.gpus_per_worker = 0.5 for training.workers = 4: 2 GPUs are more than the 0 of the "
            "cluster; lower it or the workers, or join a larger cluster",
        ),
        (
            {"cpus_per_actor": 5},
            1,
            "compute.cpus_per_actor = 5: 5 CPUs are more than the 4 of the cluster; "
            "lower it, or join a larger cluster",
        ),
        (
            {"cpus_per_worker": 1.5},
            3,
            "compute.cpus_per_worker = 1.5 for training.workers = 3: 4.5 CPUs are more than the 4 of the "
            "cluster; lower it or the workers, or join a larger cluster",
        ),
    ],
)
def test_check_resources__more_than_there_is(compute: dict[str, float], workers: int, line: str) -> None:
    config = Config.from_mapping({"compute": compute, "training": {"workers": workers}})
    with pytest.raises(ConfigError) as refused:
        check_resources(config, {"CPU": 4.0, "memory": 1e9})
    assert str(refused.value) == line


def test_check_resources__one_actor_is_enough_but_all_workers_are_needed() -> None:
    config = Config.from_mapping(
        {
            "compute": {"actors": 64, "gpus_per_actor": 1, "gpus_per_worker": 1, "cpus_per_worker": 2},
            "training": {"workers": 2},
        }
    )
    check_resources(config, {"CPU": 4.0, "GPU": 2.0})


def test_check_resources__an_elastic_training_needs_its_least_workers() -> None:
    training = {"workers": 8, "min_workers": 2}
    check_resources(Config.from_mapping({"training": training}), {"CPU": 2.0})
    with pytest.raises(ConfigError, match=r"for training.min_workers = 2: 2 CPUs are more than the 1 of"):
        check_resources(Config.from_mapping({"training": training}), {"CPU": 1.0})


@pytest.mark.parametrize(
    ("training", "line"),
    [
        ({"workers": 2, "min_workers": 3}, "training.min_workers = 3: more than training.workers = 2"),
        ({"passes": "shared", "attack": "pgd"}, "training.attack is 'pgd': must be fgsm where passes"),
        ({"early_stop": 3, "validation": 0}, "training.early_stop is 3: must be none where validation is 0"),
    ],
)
def test_check__training_settings_that_do_not_go_together(
    training: dict[str, Any], line: str, run: RunDirectory
) -> None:
    assert refusal({"training": training}, run).startswith(line)
