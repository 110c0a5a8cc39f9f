"""The config: what is refused is refused in one line with the field, the value and the mend."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dm2at_ray.config import Config, differing_fields
from dm2at_ray.config_sections import Section, TrainingConfig
from dm2at_ray.errors import ConfigError
from dm2at_ray.training import TrainSettings

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def refusal(values: dict[Any, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        Config.from_mapping(values, "run.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"query": {"sizee": 5}}, "query.sizee = 5: unknown field; did you mean size?"),
        ({"qeury": {"size": 5}}, "qeury = {'size': 5}: unknown field; did you mean query?"),
        (
            {"attack": {"radius": 1}},
            "attack.radius = 1: unknown field; use one of epsilon",
        ),
        ({"query": 5}, "query = 5: not a section; write its fields below it, one a line"),
        (
            {"query": {"size": "many"}},
            "query.size = 'many': input should be a valid integer, unable to parse string as an integer",
        ),
        ({"query": {"size": 0}}, "query.size = 0: input should be greater than or equal to 1"),
        (
            {"query": {"measure": "doubt"}},
            "query.measure = 'doubt': input should be 'entropy', 'least_confidence' or 'margin'",
        ),
        ({"attack": {"epsilon": -0.1}}, "attack.epsilon = -0.1: input should be greater than or equal to 0"),
        ({"attack": {"epsilon": 8}}, "attack.epsilon = 8: input should be less than or equal to 1"),
        (
            {"attack": {"epsilon": "8/0"}},
            "attack.epsilon = '8/0': input should be a valid number, unable to parse string as a number",
        ),
        (
            {"training": {"clean_weight": 1.5}},
            "training.clean_weight = 1.5: input should be less than or equal to 1",
        ),
        (
            {"training": {"clean_weight": -0.5}},
            "training.clean_weight = -0.5: input should be greater than or equal to 0",
        ),
        (
            {"neighbors": {"l1_weight": float("inf")}},
            "neighbors.l1_weight = inf: input should be a finite number",
        ),
        ({"model": {"batch_size": 100}}, "model.batch_size = 100: not a power of two; use one such as 256"),
        (
            {"neighbors": {"l1_weight": 0, "l2_weight": 0}},
            "neighbors.l1_weight = 0: l2_weight is 0 as well; give at least one of them weight",
        ),
        (
            {"data": {"source": "image_folder"}},
            "data.path = None: the source image_folder needs one; give the path of its images",
        ),
        (
            {"mixup": {"prescreen": 10}},
            "mixup.prescreen = 10: only has an effect with mixup.space: input; leave it out",
        ),
        (
            {"query": {"initial": 100}, "stop": {"label_budget": 99}},
            "stop.label_budget = 99: less than query.initial = 100; raise it, or ask for fewer in round 0",
        ),
        ({"name": "a/b"}, "name = 'a/b': string should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$'"),
        ({"seed": -1}, "seed = -1: input should be greater than or equal to 0"),
    ],
)
def test_from_mapping__refuses_in_one_line(values: dict[str, Any], line: str) -> None:
    assert refusal(values) == f"run.yaml: {line}"


def test_from_mapping__says_everything_that_is_wrong_one_line_a_field() -> None:
    lines = refusal({"query": {"size": 0}, "attack": {"epsilon": -1}}).splitlines()
    assert [line.split(" = ")[0] for line in lines] == ["run.yaml: query.size", "run.yaml: attack.epsilon"]


def test_from_mapping__takes_what_lies_on_the_bounds() -> None:
    config = Config.from_mapping(
        {
            "attack": {"epsilon": 0},
            "training": {"clean_weight": 1.0},
            "query": {"initial": 50},
            "stop": {"label_budget": 50},
            "mixup": {"space": "input", "prescreen": 1},
        }
    )
    assert (config.attack.epsilon, config.training.clean_weight) == (0.0, 1.0)


@pytest.mark.parametrize("written", ["8/255", "8 / 255", 8 / 255])
def test_epsilon__may_be_written_as_in_papers(written: object) -> None:
    config = Config.from_mapping(
        {"attack": {"epsilon": written}, "evaluation": {"pgd_step_size": "2/255"}, "data": {}}
    )
    assert config.attack.epsilon == pytest.approx(0.0313725, abs=1e-7)
    assert config.evaluation.pgd_step_size == pytest.approx(0.0078431, abs=1e-7)


def test_config__cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().query.size = 3  # type: ignore[misc]


def test_load__reads_the_file_then_the_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: mine\nquery:\n  size: 7\n  initial: 9\nmodel:\n")
    config = Config.load(path, ["query.size=50", "model.mean=[0.1, 0.2, 0.3]", "attack.epsilon=4/255"])
    assert (config.name, config.query.size, config.query.initial) == ("mine", 50, 9)
    assert config.model.mean == (0.1, 0.2, 0.3)
    assert config.attack.epsilon == pytest.approx(4 / 255)


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("stop.rounds=0", "stop.rounds", 0),
        ("monitoring.enabled=false", "monitoring.enabled", False),
        ("stop.rounds=null", "stop.rounds", None),
        ("stop.rounds=", "stop.rounds", None),
        (" query.size = 3", "query.size", 3),
        ("name=other", "name", "other"),
    ],
)
def test_load__overrides_with_what_yaml_reads(
    tmp_path: Path, override: str, field: str, value: object
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("query:\nstop:\n  rounds: 3\n")
    found: Any = Config.load(path, [override])
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "query.size",
            "--set query.size: not of the form section.field=value; write e.g. --set query.size=50",
        ),
        ("=5", "--set =5: not of the form section.field=value; write e.g. --set query.size=50"),
        ("name.x=5", "--set name.x=5: name is no section; see `dm2at config` for the fields"),
        ("nonsense.size=5", "{path}: nonsense = {'size': 5}: unknown field; use one of name, seed, data, "),
        ("query.sise=5", "{path}: query.sise = 5: unknown field; did you mean size?"),
        ("query.size=[1", "--set query.size=[1: not valid YAML ("),
    ],
)
def test_load__refuses_overrides(tmp_path: Path, override: str, line: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: mine\n")
    with pytest.raises(ConfigError) as refused:
        Config.load(path, [override])
    assert str(refused.value).startswith(line.replace("{path}", str(path)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "query:\ntraining:\n"])
def test_load__what_is_left_out_has_its_default(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert Config.load(path) == Config()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"query: [1, 2\n", "not valid YAML ("),
        (b"- a\n- b\n", "not a mapping of sections"),
        (b"just words\n", "not a mapping of sections"),
        (b"false\n", "not a mapping of sections"),
        (b"\xff\xfe\x00", "cannot be read ("),
    ],
)
def test_load__refuses_files_that_are_no_config(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        Config.load(path)
    assert str(path) in str(refused.value)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_load__refuses_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\); give") as refused:
        Config.load(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_load__the_ready_configs(path: Path) -> None:
    assert differing_fields(Config(), Config.load(path)) != []


def test_to_yaml__load_reads_it_back(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    config = Config.from_mapping(
        {
            "name": "mine",
            "attack": {"epsilon": "3/255"},
            "model": {"mean": [0.1, 0.2, 0.3], "std": [1e-5, 0.5, 1]},
            "training": {"weight_decay": 1e-5, "warm_start": True},
            "stop": {"rounds": None, "patience": 2},
        }
    )
    path.write_text(config.to_yaml())
    assert Config.load(path) == config


def test_differing_fields__names_them_but_for_where_the_work_runs() -> None:
    changed = Config.from_mapping(
        {
            "seed": 1,
            "query": {"size": 7, "initial": 8},
            "attack": {"epsilon": 0.5},
            "compute": {"actors": 9, "block_rows": 5},
            "monitoring": {"port": 1},
        }
    )
    assert differing_fields(Config(), changed) == ["seed", "query.initial", "query.size", "attack.epsilon"]
    assert differing_fields(changed, changed) == []


def test_fields__are_all_documented() -> None:
    for name, field in Config.model_fields.items():
        assert field.description, name
        if isinstance(field.default, Section):
            for inner, inner_field in type(field.default).model_fields.items():
                assert inner_field.description, f"{name}.{inner}"


def test_training_config__has_the_fields_of_train_settings() -> None:
    # workers and min_workers are Ray Train's, warm_start the stage's; epsilon comes from the attack section.
    ours = set(TrainingConfig.model_fields) - {"workers", "min_workers", "warm_start"}
    theirs = {field.name for field in dataclasses.fields(TrainSettings)} - {"epsilon"}
    assert ours == theirs


def test_training_config__has_the_defaults_of_train_settings() -> None:
    config, settings = TrainingConfig(), TrainSettings()
    shared = {field.name for field in dataclasses.fields(TrainSettings)} & set(TrainingConfig.model_fields)
    different = {name for name in shared if getattr(config, name) != getattr(settings, name)}
    # A run retrains from scratch on 100 labels: 200 steps do not converge there.
    assert different <= {"min_steps"}
    assert Config().attack.epsilon == settings.epsilon


def test_worker_threads__are_the_cpus_rounded_down() -> None:
    for cpus, threads in ((0.5, 1), (1.0, 1), (2.9, 2)):
        assert Config.from_mapping({"compute": {"cpus_per_worker": cpus}}).compute.worker_threads == threads
