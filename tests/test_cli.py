"""What the command says to somebody who got something wrong: one line, exit code 2, and nothing begun."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from dm2at_ray import __version__

POOL = "data: {source: digits}\n"


Answer = tuple[int, str, str]
"""Exit code, stdout and stderr."""


def assert_refused(answer: Answer, pattern: str) -> None:
    """Exit code 2 and one line, which the pattern matches in full."""
    code, stdout, stderr = answer
    assert code == 2
    assert stdout == ""
    assert re.fullmatch(pattern + r"\n", stderr), stderr


WRONG = {
    "unknown key": ("query.sise=5", r".*run\.yaml: query\.sise = 5: unknown field; did you mean size\?"),
    "unknown section": (
        "quiery={size: 5}",
        r".*: quiery = \{'size': 5\}: unknown field; did you mean query\?",
    ),
    "wrong type": ("query.size=many", r".*query\.size = 'many': input should be a valid integer.*"),
    "k >= pool": (
        "neighbors.k=1500",
        r"neighbors\.k = 1500: not less than the 1,4\d\d images of the pool; lower it",
    ),
    "B > pool": (
        "query.size=1500",
        r"query\.size = 1500: more than the 1,4\d\d images of the pool; lower it",
    ),
    "initial > pool": (
        "query.initial=1500",
        r"query\.initial = 1500: more than the 1,4\d\d images .*; lower it",
    ),
    "epsilon < 0": ("attack.epsilon=-1/255", r".*attack\.epsilon = '-1/255': .*greater than or equal to 0"),
    "lambda > 1": (
        "training.clean_weight=1.5",
        r".*training\.clean_weight = 1\.5: .*less than or equal to 1",
    ),
    "lambda < 0": (
        "training.clean_weight=-0.1",
        r".*training\.clean_weight = -0\.1: .*greater than or equal to 0",
    ),
    "no path": (
        "data.source=parquet",
        r".*data\.path = None: the source parquet needs one; give the path .*",
    ),
    "missing path": (
        "data={source: image_folder, path: /nowhere/at/all, image_size: 8, channels: 1}",
        r"data\.path '/nowhere/at/all': no such folder; give a folder of images, .*",
    ),
    "missing weights": ("model.weights=/nowhere.safetensors", r"model\.weights = /nowhere\.safetensors: .*"),
    "wrong mean": ("model.mean=[0.1, 0.2]", r"model\.mean = \(0\.1, 0\.2\): .* 2 values for .*; give 1 .*"),
    "unknown model": (
        "model.name=resnet81",
        r"model\.name = resnet81: .* unknown; did you mean .*resnet18.*",
    ),
    "unknown strategy": (
        "query.strategy=mragin",
        r"query\.strategy = mragin: unknown; use one of dm2_at, random, entropy, least_confidence, margin",
    ),
    "budget < initial": (
        "stop.label_budget=10",
        r".*stop\.label_budget = 10: less than query\.initial = 100; raise it, or ask for fewer .*",
    ),
    "no assignment": (
        "query.size",
        r"--set query\.size: not of the form section\.field=value; write e\.g\. .*",
    ),
}


@pytest.mark.parametrize(("setting", "pattern"), WRONG.values(), ids=WRONG.keys())
def test_run__refuses_a_wrong_config_in_one_line_before_any_work(
    setting: str, pattern: str, dm2at: Callable[..., Answer], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(POOL)
    joined_before = ray.is_initialized()
    answer = dm2at("run", config, "--set", setting, "--run-dir", tmp_path / "run")
    assert_refused(answer, pattern)
    assert not (tmp_path / "run").exists()
    assert ray.is_initialized() == joined_before


def test_run__names_every_wrong_field_on_a_line_of_its_own(
    dm2at: Callable[..., Answer], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("query: {size: 0}\nneighbors: {k: few}\n")
    answer = dm2at("run", config)
    assert_refused(answer, r".*query\.size = 0: [^\n]*\n[^\n]*neighbors\.k = 'few': [^\n]*")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            None,
            r"config: .*run\.yaml cannot be read \(No such file or directory\); give the path of a YAML file",
        ),
        ("query: [", r".*run\.yaml: not valid YAML \(.*\); mend .*"),
        ("- digits", r".*run\.yaml: not a mapping of sections; see configs/quickstart\.yaml for one"),
    ],
    ids=["missing", "no YAML", "no mapping"],
)
def test_run__refuses_a_file_that_is_no_config(
    text: str | None, reason: str, dm2at: Callable[..., Answer], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    if text is not None:
        config.write_text(text)
    assert_refused(dm2at("run", config), reason)


@pytest.mark.parametrize("command", ["status", "report"])
def test_status_and_report__of_a_directory_without_a_run(
    command: str, dm2at: Callable[..., Answer], tmp_path: Path
) -> None:
    directory = re.escape(str(tmp_path))
    pattern = rf"run directory {directory}: no run there; give the directory that `dm2at run` printed"
    assert_refused(dm2at(command, tmp_path), pattern)


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "a.yaml", "--fast"], ["walk"]], ids=["nothing to run", "option", "command"]
)
def test_command_line__is_refused_with_its_usage(arguments: list[str], dm2at: Callable[..., Answer]) -> None:
    code, _, stderr = dm2at(*arguments)
    assert code == 2
    assert "Usage: dm2at" in stderr
    assert "Traceback" not in stderr


def test_version(dm2at: Callable[..., Answer]) -> None:
    assert dm2at("version") == (0, f"{__version__}\n", "")


def test_config__shows_fields_with_default_and_meaning(dm2at: Callable[..., Answer]) -> None:
    code, stdout, _ = dm2at("config")
    assert code == 0
    assert "clean_weight" in stdout
    assert "Lambda: the clean loss's weight" in stdout


def test_run__as_a_process_leaves_with_code_2_and_one_line(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("training: {clean_weight: 2}\n")
    command = [sys.executable, "-m", "dm2at_ray.cli", "run", str(config), "--run-dir", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert_refused((ended.returncode, ended.stdout, ended.stderr), r".*training\.clean_weight = 2: .*")
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
