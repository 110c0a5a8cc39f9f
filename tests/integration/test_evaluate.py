"""`dm2at evaluate` on a finished run, on the session's cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.store import RunDirectory

from .commands import Command

SECONDS = 240


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file of a run directory but for the evaluations."""
    paths = [path for path in directory.rglob("*") if path.is_file() and path.parent.name != "evaluations"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


@pytest.mark.ray
def test_evaluate__measures_again_what_the_round_has_measured(
    reference: Path, ray_address: str, tmp_path: Path
) -> None:
    before = files_of(reference)
    with Command("evaluate", reference, folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 0, command.stderr
        lines = command.stdout.splitlines()
    round_ = RunDirectory(str(reference)).round(1)
    metrics, found = round_.metrics(), round_.evaluations()
    assert sorted(found) == ["clean", "fgsm", "pgd"]
    for attack, result in found.items():
        assert result["accuracy"] == metrics["accuracy"][attack]
        assert result["accuracy_interval"] == metrics["accuracy_interval"][attack]
        assert result["accuracy_by_class"] == metrics["accuracy_by_class"][attack]
        assert result["images"] == metrics["evaluated"] == 344
    assert files_of(reference) == before
    assert lines[0].startswith("round 1  evaluate ")
    assert lines[1].split() == ["attack", "accuracy", "95", "%", "interval", "images", "settings"]
    assert lines[-1] == f"written to {reference}/rounds/0001/evaluations"
    assert command.stderr == ""


@pytest.mark.ray
def test_evaluate__as_json_under_settings_of_its_own(
    reference: Path, ray_address: str, tmp_path: Path
) -> None:
    def asked(*arguments: object) -> dict[str, Any]:
        with Command("evaluate", reference, *arguments, "--json", folder=tmp_path, address=ray_address) as it:
            assert it.end(SECONDS) == 0, it.stderr
            answer: dict[str, Any] = json.loads(it.stdout)
            return answer

    options = ("--round", 0, "--max-images", 6, "--pgd-steps", 5, "--pgd-restarts", 3)
    answer = asked("--attack", "pgd", "--attack", "autoattack", *options)
    assert answer["round"] == 0
    pgd, autoattack = (answer["evaluations"][attack] for attack in ("pgd", "autoattack"))
    assert pgd["images"] == autoattack["images"] == 6
    assert (pgd["settings"]["steps"], pgd["settings"]["restarts"]) == (5, 3)
    assert autoattack["settings"]["attacks"] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert autoattack["accuracy"] <= pgd["accuracy"]
    assert RunDirectory(str(reference)).round(0).evaluations() == answer["evaluations"]
