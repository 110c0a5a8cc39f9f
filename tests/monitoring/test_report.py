"""The page is read with the standard library's HTML parser."""

import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from dm2at_ray.monitoring.gallery import QueriedImage
from dm2at_ray.monitoring.report import ReportData, render_report

VOID = {"meta", "img", "br", "hr", "link", "input", "path", "use", "rect"}
SVG_NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


class Page(HTMLParser):
    """Collects elements and texts, and insists that every element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def queries(count: int) -> list[QueriedImage]:
    images = np.random.default_rng(0).integers(8, 248, (count, 8, 8, 1), np.uint8)
    return [QueriedImage(100 + i, image, image + 8, i % 2, 0, 2.0 - i / 8) for i, image in enumerate(images)]


def report(rounds: list[dict[str, Any]], **changes: Any) -> ReportData:
    fields: dict[str, Any] = {
        "title": "Digits & co",
        "run_dir": "runs/digits",
        "config_yaml": "model:\n  name: small_cnn\n",
        "version": "0.1.0",
        "created": datetime(2025, 11, 23, 10, 30, tzinfo=timezone.utc),
        "class_names": ["cat", "dog"],
        "rounds": rounds,
        "queries": {1: queries(4)},
        "facts": {"Started": "2025-11-23 10:00 UTC"},
    }
    return ReportData(**(fields | changes))


def test_render_report__names_the_run_and_sums_it_up(rounds: list[dict[str, Any]]) -> None:
    texts = Page(render_report(report(rounds))).texts
    assert texts.count("Digits & co") == 2  # title and heading
    assert (
        "2 rounds, 20 to 24 labels, 96 images left in the pool, 1 set aside as unreadable. "
        "Accuracy: clean 87.5 %, FGSM 62.5 %, PGD 50.0 %. 19.2 s in all."
    ) in texts
    assert {"runs/digits", "2025-11-23 10:00 UTC", "2025-11-23 10:30 UTC by dm2at-ray 0.1.0"} <= set(texts)
    assert "model: name: small_cnn" in texts


def test_render_report__rounds_in_a_table(rounds: list[dict[str, Any]]) -> None:
    texts = Page(render_report(report(rounds))).texts
    start = texts.index("round")
    assert texts[start : start + 7] == ["round", "labels", "clean", "FGSM", "PGD", "train acc.", "time"]
    assert texts[start + 7 : start + 14] == ["0", "20", "75.0 %", "50.0 %", "25.0 %", "100.0 %", "10.2 s"]
    assert texts[start + 14 : start + 21] == ["1", "24", "87.5 %", "62.5 %", "50.0 %", "96.9 %", "9.0 s"]


def test_render_report__classes_of_the_last_round(rounds: list[dict[str, Any]]) -> None:
    texts = Page(render_report(report(rounds))).texts
    start = texts.index("class") + 5
    assert texts[start : start + 5] == ["cat", "13", "75.0 %", "75.0 %", "50.0 %"]
    assert texts[start + 5 : start + 10] == ["dog", "11", "100.0 %", "50.0 %", "50.0 %"]


def test_render_report__intervals_where_the_rounds_tell_them(rounds: list[dict[str, Any]]) -> None:
    assert not any("confidence" in text for text in Page(render_report(report(rounds))).texts)
    rounds[1]["accuracy_interval"] = {"clean": [0.8, 0.9]}
    rounds[1]["accuracy_interval_by_class"] = {"clean": [[0.625, 0.8125], None]}
    texts = Page(render_report(report(rounds))).texts
    start = texts.index("class") + 5
    assert texts[start : start + 6] == ["cat", "13", "75.0 %", "62.5–81.2 %", "75.0 %", "50.0 %"]  # noqa: RUF001
    assert any(text.endswith("The shades are 95 % confidence intervals.") for text in texts)


def test_render_report__needs_nothing_but_itself(rounds: list[dict[str, Any]]) -> None:
    html = render_report(report(rounds))
    without_namespaces = html
    for namespace in SVG_NAMESPACES:
        without_namespaces = without_namespaces.replace(namespace, "")
    assert re.findall(r"https?:|//\w|@import|<script|<link|javascript:", without_namespaces) == []
    page = Page(html)
    assert all((attributes["src"] or "").startswith("data:image/png") for attributes in page.all("img"))
    assert {target for _, a in page.elements if (target := a.get("href")) and target[0] != "#"} == set()


def test_render_report__charts_take_their_colours_from_the_page(rounds: list[dict[str, Any]]) -> None:
    html = render_report(report(rounds))
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        assert "var(--ink)" in chart
        assert "var(--series-0)" in chart
        assert re.findall(r"#[0-9a-fA-F]{6}\b", chart) == []
    for variable in set(re.findall(r"var\((--[\w-]+)\)", html)):
        assert f"{variable}:" in html


def test_render_report__every_curve_and_bar_is_named(rounds: list[dict[str, Any]]) -> None:
    texts = Page(render_report(report(rounds))).texts
    assert {"clean 87.5 %", "FGSM 62.5 %", "PGD 50.0 %"} <= set(texts)
    assert {"embed", "neighbors", "score", "craft", "label", "train", "evaluate"} <= set(texts)
    assert {"round 0", "10.2 s", "round 1", "9.0 s"} <= set(texts)


@pytest.mark.parametrize(("allowed", "shown"), [(12, 4), (3, 3)])
def test_render_report__three_pictures_a_query(
    rounds: list[dict[str, Any]], allowed: int, shown: int
) -> None:
    page = Page(render_report(report(rounds), pictures_per_round=allowed))
    assert len(page.all("figure")) == shown
    assert len(page.all("img")) == 3 * shown
    assert f"{shown} of 4 queries, highest score first; perturbation × 15" in page.texts  # noqa: RUF001


def test_render_report__one_picture_for_a_query_without_twin_or_label(rounds: list[dict[str, Any]]) -> None:
    waiting = QueriedImage(7, np.zeros((8, 8, 3), np.uint8), None, None, 1, 0.5)
    page = Page(render_report(report(rounds, queries={2: [waiting]})))
    assert [attributes["alt"] for attributes in page.all("img")] == ["sample 7"]
    assert "1 of 1 queries, highest score first" in page.texts
    assert "no label yet" in page.texts
    assert "✗ dog" not in page.texts


def test_render_report__wrong_predictions_are_marked(rounds: list[dict[str, Any]]) -> None:
    texts = Page(render_report(report(rounds))).texts
    assert texts.count("✗ cat") == 2  # the two dogs among four queries
    assert "score 1.875 · sample 101" in texts


def test_render_report__a_class_named_like_markup_is_text(rounds: list[dict[str, Any]]) -> None:
    html = render_report(
        report(rounds, class_names=["<b>", 'dog"&'], config_yaml="<script>alert(1)</script>")
    )
    page = Page(html)
    assert page.all("b") == page.all("script") == []
    assert {"<b>", 'dog"&', "✗ <b>", "<script>alert(1)</script>"} <= set(page.texts)


def test_render_report__of_many_classes_the_worst(rounds: list[dict[str, Any]]) -> None:
    names = [f"class {index}" for index in range(200)]
    by_class = {"clean": [1.0] * 200, "pgd": [0.9, None, *[0.005 * index for index in range(2, 200)]]}
    crowded = rounds[1] | {"accuracy_by_class": by_class, "queries_by_class": [0] * 200}
    texts = Page(render_report(report([crowded], class_names=names, queries={}))).texts
    shown = [text for text in texts if text.startswith("class ")]
    assert shown == names[2:32]
    assert "The 30 of 200 classes that do worst under PGD." in texts


def test_render_report__before_the_first_round() -> None:
    page = Page(render_report(report([], queries={})))
    assert "No round is committed yet." in page.texts
    assert page.all("svg") == page.all("table") == page.all("img") == []


def test_render_report__a_round_that_was_not_evaluated(rounds: list[dict[str, Any]]) -> None:
    bare = {"round": 0, "labeled": 20, "pool": 100, "rejected": 0, "stage_seconds": {"label": 0.5}}
    page = Page(render_report(report([bare], queries={})))
    assert "1 round, 20 labels, 100 images left in the pool. 0.5 s in all." in page.texts
    assert len(page.all("svg")) == 1
