"""The charts are read as the XML they are."""

import copy
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from dm2at_ray.monitoring.charts import FONT_SIZE, accuracy_chart, stage_chart

TEXT = "{http://www.w3.org/2000/svg}text"


def heights_of_texts(svg: str) -> dict[str, float]:
    """Every text of a chart with its distance from the top."""
    return {text.text or "": float(text.attrib["y"]) for text in ElementTree.fromstring(svg).iter(TEXT)}


def test_accuracy_chart__better_stands_higher_on_whole_percentages(rounds: list[dict[str, Any]]) -> None:
    heights = heights_of_texts(accuracy_chart(rounds))
    assert heights["clean 87.5 %"] < heights["FGSM 62.5 %"] < heights["PGD 50.0 %"]
    assert {"20", "24", "labels"} <= set(heights)
    assert heights["80 %"] < heights["60 %"] < heights["40 %"]


def test_accuracy_chart__names_of_curves_that_meet_do_not_overlap(rounds: list[dict[str, Any]]) -> None:
    rounds[1]["accuracy"] = {"clean": 0.5, "fgsm": 0.5, "pgd": 0.5}
    heights = heights_of_texts(accuracy_chart(rounds))
    names = sorted(heights[name] for name in ("clean 50.0 %", "FGSM 50.0 %", "PGD 50.0 %"))
    assert all(FONT_SIZE <= lower - upper < 3 * FONT_SIZE for upper, lower in pairwise(names))


def test_accuracy_chart__a_hairs_breadth_does_not_fill_the_chart(rounds: list[dict[str, Any]]) -> None:
    rounds[0]["accuracy"] = rounds[1]["accuracy"] = {"clean": 0.901}
    rounds[1]["accuracy"] = {"clean": 0.902}
    heights = heights_of_texts(accuracy_chart(rounds))
    assert {"86 %", "90 %", "94 %"} <= set(heights)


def test_accuracy_chart__a_single_round_and_an_attack_measured_once(rounds: list[dict[str, Any]]) -> None:
    assert "clean 75.0 %" in heights_of_texts(accuracy_chart(rounds[:1]))
    rounds[1]["accuracy"]["autoattack"] = 0.375
    assert "AutoAttack 37.5 %" in heights_of_texts(accuracy_chart(rounds))


def test_accuracy_chart__intervals_are_shades_in_the_colour_of_their_curve(
    rounds: list[dict[str, Any]],
) -> None:
    bare = accuracy_chart(rounds)
    for metrics in rounds:
        metrics["accuracy_interval"] = {"pgd": [metrics["accuracy"]["pgd"] - 0.1, 0.6], "clean": None}
    svg = accuracy_chart(rounds)
    assert "fill-opacity: 0.15" not in bare
    assert [style for style in re.findall(r'style="([^"]*)"', svg) if "fill-opacity: 0.15" in style] == [
        "fill: var(--series-2); fill-opacity: 0.15"
    ]


def test_stage_chart__a_bar_a_round_in_order(rounds: list[dict[str, Any]]) -> None:
    heights = heights_of_texts(stage_chart(rounds))
    assert heights["embed"] == heights["evaluate"] < heights["round 0"] < heights["round 1"]
    assert abs(heights["round 1"] - heights["9.0 s"]) < 2


def test_charts__are_the_same_text_for_the_same_rounds(rounds: list[dict[str, Any]]) -> None:
    again = copy.deepcopy(rounds)
    assert accuracy_chart(rounds) == accuracy_chart(again)
    assert stage_chart(rounds) == stage_chart(again)
