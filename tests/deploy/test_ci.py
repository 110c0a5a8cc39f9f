"""CI's files: what linters and schemas say of them, and that they call the command as it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from dm2at_ray.cli import app

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / "deploy/ci/github-actions.yml"
GITLAB = ROOT / "deploy/ci/gitlab-ci.yml"


def test_yaml__yamllint(lint: Callable[..., None]) -> None:
    lint("yamllint", "--strict", ".yamllint.yml", ".github", "configs", "deploy")


def test_workflows__zizmor(lint: Callable[..., None]) -> None:
    lint("zizmor", "--offline", "--quiet", ".github/workflows", str(GITHUB))


def test_submitting_workflow__zizmor_to_the_letter(lint: Callable[..., None]) -> None:
    lint("zizmor", "--offline", "--quiet", "--pedantic", str(GITHUB))


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("github-workflows", GITHUB),
        ("github-workflows", ROOT / ".github/workflows/ci.yml"),
        ("gitlab-ci", GITLAB),
    ],
)
def test_files__follow_their_schema(lint: Callable[..., None], schema: str, path: Path) -> None:
    lint("check-jsonschema", "--builtin-schema", f"vendor.{schema}", str(path))


def github_step() -> dict[str, Any]:
    (job,) = yaml.safe_load(GITHUB.read_text())["jobs"].values()
    (step,) = [each for each in job["steps"] if "run" in each]
    return step


def gitlab_job() -> dict[str, Any]:
    return yaml.safe_load(GITLAB.read_text())["dm2at"]


def command(of: str) -> list[str]:
    script = github_step()["run"] if of == "github" else "\n".join(gitlab_job()["script"])
    words = shlex.split(script)
    return words[words.index("dm2at") :]


@pytest.mark.parametrize("of", ["github", "gitlab"])
def test_command__is_one_of_the_real_command_line(of: str) -> None:
    program, name, *arguments = command(of)
    assert (program, name) == ("dm2at", "submit")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parameters = commands[name].make_context(name, arguments).params
    assert parameters["wait"] is True
    assert str(parameters["config"]) == "$CONFIG"
    assert parameters["address"] == "$RAY_API_SERVER_ADDRESS"
    assert parameters["run_dir"] == "$RUN_DIR"


@pytest.mark.parametrize("of", ["github", "gitlab"])
def test_command__default_config_is_there(of: str) -> None:
    text = github_step()["env"]["CONFIG"] if of == "github" else gitlab_job()["variables"]["CONFIG"]
    (path,) = re.findall(r"configs/[\w.]+", text)
    assert (ROOT / path).exists()


def test_exit_code__is_the_commands_own() -> None:
    # Nothing after it in the step, no `|| true`, no pipe: the step ends as `dm2at submit` does.
    for script in (github_step()["run"], *gitlab_job()["script"]):
        assert not re.search(r"[|;&]|\bset \+e", script)
    assert "continue-on-error" not in GITHUB.read_text()
    assert gitlab_job()["script"][-1].startswith("dm2at submit")


def test_token__comes_from_a_secret_and_is_on_no_command_line() -> None:
    step = github_step()
    assert step["env"]["RAY_AUTH_TOKEN"] == "${{ secrets.RAY_AUTH_TOKEN }}"
    assert step["env"]["RAY_AUTH_MODE"] == gitlab_job()["variables"]["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in gitlab_job()["variables"]
    for script in (step["run"], *gitlab_job()["script"]):
        assert "${{" not in script, "an expression in a script is code that others may write"
        assert not re.search(r"\$\{?RAY_AUTH_TOKEN|RAY_AUTH_TOKEN=", script)


def test_run__has_one_submitter_at_a_time_that_is_not_cut_off() -> None:
    concurrency = yaml.safe_load(GITHUB.read_text())["concurrency"]
    assert concurrency["cancel-in-progress"] is False
    assert "run_dir" in concurrency["group"]
    assert gitlab_job()["resource_group"] == "$RUN_DIR"
    assert gitlab_job()["interruptible"] is False
