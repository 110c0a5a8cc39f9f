"""The image: pinned, not root, nothing secret or needless in it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined, comments left out."""
    lines = [each for each in DOCKERFILE.read_text().splitlines() if not each.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_dockerfile__hadolint(lint: Callable[..., None]) -> None:
    lint("hadolint", "--failure-threshold", "info", str(DOCKERFILE))


def test_base__is_pinned_to_the_ray_of_the_package(instructions: list[tuple[str, str]]) -> None:
    (base,) = [rest.removeprefix("BASE=") for name, rest in instructions if name == "ARG" and "BASE=" in rest]
    found = re.fullmatch(r"rayproject/ray:(\d+\.\d+\.\d+)-py311-cpu", base)
    assert found
    (ray,) = [each for each in map(Requirement, requirements()) if each.name == "ray"]
    assert ray.specifier.contains(found[1])
    assert {rest.split(" ")[0] for name, rest in instructions if name == "FROM"} == {"${BASE}"}


def test_user__is_a_number_and_not_root(instructions: list[tuple[str, str]]) -> None:
    users = [rest for name, rest in instructions if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:\d+", users[-1])
    # As root nothing but the system's packages is installed.
    after_root = instructions[instructions.index(("USER", "0")) + 1 :]
    assert [name for name, _ in after_root[:2]] == ["RUN", "USER"]


def test_secrets__are_no_arguments(instructions: list[tuple[str, str]]) -> None:
    for name, rest in instructions:
        if name in ("ARG", "ENV"):
            assert not re.search("TOKEN|PASSWORD|SECRET|CREDENTIAL", rest, re.IGNORECASE), rest


def test_dependencies__are_read_from_pyproject() -> None:
    found = requirements()
    assert {Requirement(each).name for each in found} >= {"ray", "torch", "pyarrow", "pydantic", "typer"}
    # `dm2at serve` refuses to begin without any of these.
    assert {Requirement(each).name for each in found} >= {"fastapi", "uvicorn", "uvloop", "httptools"}


def requirements() -> list[str]:
    """What the Dockerfile's own line makes of pyproject.toml."""
    if sys.version_info < (3, 11):
        pytest.skip("the image's Python is 3.11, whose tomllib this one has not")
    found = re.search(r'python -c "(.+)"', DOCKERFILE.read_text())
    assert found
    ended = subprocess.run(
        [sys.executable, "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    return ended.stdout.split("\n")[:-1]


def test_context__has_what_is_copied_and_nothing_else(instructions: list[tuple[str, str]]) -> None:
    lines = [each for each in (ROOT / ".dockerignore").read_text().splitlines() if each and each[0] != "#"]
    assert lines[0] == "*"
    admitted = {each[1:] for each in lines if each.startswith("!")}
    copied: set[str] = set()
    for name, rest in instructions:
        if name == "COPY" and "--from" not in rest:
            copied |= set([part for part in rest.split() if not part.startswith("--")][:-1])
    assert copied == admitted
    assert all((ROOT / each).exists() for each in copied)
