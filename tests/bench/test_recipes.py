"""The trainings that are compared."""

from __future__ import annotations

import dataclasses

import pytest

from dm2at_ray.bench.recipes import ANSWERS, COMPARED, RECIPES, REFERENCE, recipe_named
from dm2at_ray.errors import ConfigError
from dm2at_ray.training import TrainSettings


def training(name: str) -> TrainSettings:
    return TrainSettings(**recipe_named(name).changes)


def test_recipes__all_are_trainings_and_no_two_are_alike() -> None:
    found = {name: training(name) for name in COMPARED}
    assert len({str(each) for each in found.values()}) == len(COMPARED) == 11
    assert {each.epsilon for each in found.values()} == {8 / 255}
    assert REFERENCE in COMPARED


def test_recipes__plain_fgsm_as_the_papers_and_the_textbooks() -> None:
    paper, textbook = training("fgsm_paper"), training("fgsm_shared")
    assert (paper.attack, paper.adversaries, paper.passes) == ("fgsm", "fresh", "two")
    assert (textbook.attack, textbook.passes, textbook.attack_mode) == ("fgsm", "shared", "train")
    assert training("fgsm_predicted") == dataclasses.replace(paper, attack_label="predicted")
    assert training("fgsm_joint") == dataclasses.replace(paper, passes="joint")


def test_recipes__what_a_run_takes_is_among_the_compared() -> None:
    """Else the table would say nothing about a run."""
    assert training("default") == TrainSettings()
    assert TrainSettings() in [training(name) for name in COMPARED]


@pytest.mark.parametrize(("ending", "answer"), ANSWERS.items())
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "default"])
def test_recipe_named__with_an_answer_behind_its_name(name: str, ending: str, answer: str) -> None:
    assert training(f"{name}_{ending}") == dataclasses.replace(training(name), on_collapse=answer)
    assert recipe_named(f"{name}_{ending}").explanation.endswith(f"on_collapse: {answer}")


@pytest.mark.parametrize("name", ["", "warn", "_warn", "fgsm_joint_", "fgsm_joint_warn_warn"])
def test_recipe_named__refuses_what_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="is unknown; use one of: clean, "):
        recipe_named(name)
