"""A run's own page: its curves, where it stands, and what an operator does with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
from playwright.sync_api import expect

from .conftest import Place
from .mortal import MortalService
from .visitor import PICTURE, Visitor
from .waiting_run import ACCURACIES

SLOW_MS = 60_000
"""The service first talks to the cluster, for which it loads Ray."""

TOLD = (
    "Accuracy against the number of labels: clean 61.2 % at 12 labels, 77.1 % at 36; "
    "FGSM 43.7 % at 12 labels, 61.3 % at 36; PGD 39.1 % at 12 labels, 56.2 % at 36"
)


def test_run__curves_are_drawn_and_told(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run(committed=3)
    visitor = visit()
    visitor.open("/", place.secrets["rita"])
    visitor.page.get_by_role("link", name=run.directory.name).click()

    chart = visitor.page.get_by_role("img", name="Accuracy against the number of labels")
    expect(chart).to_have_attribute("aria-label", TOLD)
    marks = {
        attack: series.locator(".mark").evaluate_all(
            "marks => marks.map(mark => mark.getBoundingClientRect()).map(box => [box.x, box.bottom])"
        )
        for attack, series in zip(("clean", "fgsm", "pgd"), chart.locator(".series").all(), strict=True)
    }
    pixels = (marks["clean"][0][1] - marks["clean"][2][1]) / (0.771 - 0.612)
    for attack, points in marks.items():
        # Twelve labels are as wide everywhere, and a per cent as high.
        assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.5)
        rises = [points[0][1] - point[1] for point in points]
        gains = [accuracy[attack] - ACCURACIES[0][attack] for accuracy in ACCURACIES]
        assert rises == pytest.approx([pixels * gain for gain in gains], abs=1)
    expect(visitor.page.locator(".legend li")).to_have_text(["clean 77.1 %", "FGSM 61.3 %", "PGD 56.2 %"])

    visitor.page.get_by_text("As a table").click()
    rows = visitor.page.get_by_role("region", name="Accuracy by round").locator("tbody tr")
    cells = [row.locator("th, td").all_inner_texts() for row in rows.all()]
    assert cells[1] == ["1", "24", "70.8 %", "54.1 %", "48.7 %"]
    assert len(cells) == 3


def test_run__follows_what_happens(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run(sufficient=0.5)
    visitor = visit()
    visitor.open(f"/#/runs/{run.directory.name}", place.secrets["ann"])
    standing = visitor.page.locator("#standing")
    expect(standing).to_contain_text("0 of 12 answered")
    expect(standing).to_contain_text("6 needed")
    run.answer(run.asked[:4])
    expect(standing).to_contain_text("4 of 12 answered")
    expect(visitor.page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "4")

    run.next_round(5)
    expect(standing).to_contain_text("Round 3")
    expect(standing).to_contain_text("0 of 5 answered")
    expect(visitor.page.locator(".series-0 .mark").first).to_be_attached()
    # The round that has just become final is in the curves.
    visitor.page.get_by_text("As a table").click()
    expect(visitor.page.get_by_role("region", name="Accuracy by round").locator("tbody tr")).to_have_count(3)


def test_run__people_and_classes_are_counted(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run()
    run.answer(run.asked[:3])
    visitor = visit()
    visitor.open(f"/#/runs/{run.directory.name}", place.secrets["rita"])
    people = visitor.page.get_by_role("region", name="People").locator("tbody tr")
    expect(people).to_have_text(["zoe27"])
    rounds = visitor.page.get_by_role("region", name="Rounds").locator("tbody tr")
    expect(rounds).to_have_text(["012120", "112120", "21230open"])


def test_run__config_report_and_model_can_be_taken_away(
    place: Place, visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    run = place.new_run(trained=True)
    visitor = visit()
    visitor.open(f"/#/runs/{run.directory.name}", place.secrets["rita"])
    visitor.page.locator("summary", has_text="Config").click()
    expect(visitor.page.locator("pre")).to_contain_text("oracle: files")
    with visitor.page.expect_download() as coming:
        visitor.page.get_by_role("button", name="Report").click()
    coming.value.save_as(tmp_path / "report.html")
    assert coming.value.suggested_filename == f"{run.directory.name}-report.html"
    assert "<html" in (tmp_path / "report.html").read_text()[:200]
    with visitor.page.expect_download() as coming:
        visitor.page.get_by_role("button", name="Model of the last final round").click()
    coming.value.save_as(tmp_path / "model.safetensors")
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {name: weights[name].shape for name in weights} == {
        name: tensor.shape for name, tensor in run.directory.round(1).weights().items()
    }


def test_run__an_operator_accepts_pauses_and_stops(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run()
    name = run.directory.name
    olga, ann = visit(), visit()
    olga.open(f"/#/runs/{name}", place.secrets["olga"])
    page = olga.page
    accept = page.get_by_role("button", name="Accept what is there")
    page.get_by_role("button", name="Pause").wait_for()
    expect(accept).to_be_hidden()
    # Without a cluster nothing can be started.
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()

    ann.label_run(name, place.secrets["ann"])
    ann.label(2, lambda sample: run.truth[sample])
    accept.click()
    expect(page.get_by_role("dialog")).to_contain_text(
        "The run goes on with 2 answers of 12 instead of the 12"
    )
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(accept).to_be_focused()
    accept.click()
    page.get_by_role("dialog").get_by_role("button", name="Accept").click()
    expect(accept).to_be_hidden()
    expect(page.locator("#polite")).to_contain_text("Accepted")

    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".runhead .state")).to_have_text("paused")
    # Labels are still taken.
    ann.answer("one")
    ann.all_sent()

    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop the run").click()
    expect(page.locator(".runhead .state")).to_have_text("stopped")
    expect(ann.page.locator(".labeling .empty")).to_contain_text("The run is stopped.")
    expect(ann.page.locator(PICTURE)).to_be_hidden()


def test_run__an_operator_decides_by_what_is_there_now(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run()
    name = run.directory.name
    olga, ann = visit(), visit()
    ann.label_run(name, place.secrets["ann"])
    ann.label(1, lambda sample: run.truth[sample])
    # What is shown stays as it was when the page was opened.
    olga.page.route("**/events*", lambda route: route.abort())
    olga.open(f"/#/runs/{name}", place.secrets["olga"])
    accept = olga.page.get_by_role("button", name="Accept what is there")
    accept.wait_for()
    ann.label(1, lambda sample: run.truth[sample])
    accept.click()
    expect(olga.page.get_by_role("dialog")).to_contain_text("2 answers of 12 instead of the 12")


def test_run__an_operator_starts_one(mortal: MortalService, visit: Callable[..., Visitor]) -> None:
    visitor = visit(mortal.url)
    visitor.open()
    page = visitor.page
    page.get_by_role("button", name="Start a run").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("by-hand")
    config = dialog.get_by_label("Config (YAML)")
    example = config.input_value()
    config.fill("data: {source: digitz}")
    dialog.get_by_role("button", name="Start").click()
    expect(dialog.get_by_role("alert")).to_contain_text("digitz")

    config.fill(example)
    dialog.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("by-hand", timeout=SLOW_MS)
    expect(page.locator(".runhead .state")).to_have_text("submitted")
    assert (mortal.folder / "by-hand" / "service.json").exists()
