"""A service that dies, leases that end, answers that are refused: nothing that was said is lost or doubled."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from ..http.process import ServerProcess
from .conftest import Place
from .visitor import PICTURE, WAIT_MS, Visitor
from .waiting_run import WaitingRun, make_run

LEASE_SECONDS = 3
SLOW_MS = 60_000
"""A service needs its time to start on a busy machine."""


class MortalService:
    """A service on one port, to be killed and started again.

    Args:
        folder: Of the runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: ServerProcess | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.process.poll() is None

    def start(self) -> None:
        """Start it; it asks for no tokens."""
        self.process = ServerProcess(
            "--runs", self.folder, "--port", self.port, "--lease-seconds", LEASE_SECONDS
        )
        self.process.__enter__()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()

    def new_run(self, **options: Any) -> WaitingRun:
        """A run on the digits of its own."""
        name = f"digits-{len(list(self.folder.iterdir()))}"
        return make_run(str(self.folder / name), {"source": "digits"}, **options)


@pytest.fixture(scope="module")
def its_grave(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalService]:
    service = MortalService(tmp_path_factory.mktemp("mortal"))
    yield service
    service.kill()


@pytest.fixture
def mortal(its_grave: MortalService) -> MortalService:
    """A service that lives, whatever became of it in the test before."""
    if not its_grave.is_alive:
        its_grave.start()
    return its_grave


def test_failures__a_killed_service_costs_no_answer_and_doubles_none(
    mortal: MortalService, visit: Callable[..., Visitor]
) -> None:
    run = mortal.new_run(asked=14)
    visitor = visit(mortal.url)
    # Nobody asks for a token where the service listens to its own machine only.
    visitor.label_run(run.directory.name)
    page = visitor.page
    done = visitor.label(2, lambda sample: run.truth[sample])

    mortal.kill()
    done += [visitor.sample]
    visitor.answer(run.truth[done[-1]])
    expect(page.locator("#polite")).to_contain_text("1 answer not sent yet: The service does not answer.")
    for _ in range(2):
        done.append(visitor.sample)
        visitor.answer(run.truth[done[-1]])
    # A second thought, while nothing can be sent.
    page.keyboard.press("Backspace")
    visitor.answer(run.predicted(done[-1]))
    expect(page.locator("#unsent")).to_contain_text("4 answers not sent yet: The service does not answer.")
    expect(page.locator(".thumb.unsent")).to_have_count(3)
    while visitor.page.locator(PICTURE).is_visible():
        done.append(visitor.sample)
        visitor.answer(run.truth[done[-1]])
    expect(page.locator(".labeling .empty")).to_contain_text("Your answers are kept in this browser")

    # The tab is closed; what it could not send is in the browser still.
    page.close()
    mortal.start()
    visitor.page = visitor.new_page()
    visitor.open()
    visitor.all_sent()
    words = [(word["sample_id"], word["label"]) for word in run.words()]
    expected = [(sample, run.truth[sample]) for sample in done]
    expected.insert(5, (done[4], run.predicted(done[4])))
    assert words == expected
    visitor.label_run(run.directory.name)
    rest = visitor.label(14, lambda sample: run.truth[sample])
    assert sorted(done + rest) == sorted(run.asked)


def test_failures__the_page_follows_a_service_that_was_away(
    mortal: MortalService, visit: Callable[..., Visitor]
) -> None:
    run = mortal.new_run()
    visitor = visit(mortal.url)
    visitor.open(f"/#/runs/{run.directory.name}")
    expect(visitor.page.locator("#standing .progress")).to_contain_text("0 of 12 answered")
    visitor.context.set_offline(True)
    mortal.kill()
    mortal.start()
    visitor.context.set_offline(False)
    run.answer(run.asked[:5])
    expect(visitor.page.locator("#standing .progress")).to_contain_text("5 of 12", timeout=SLOW_MS)


def test_failures__pictures_of_who_went_away_go_to_others_and_nobody_else(
    mortal: MortalService, visit: Callable[..., Visitor]
) -> None:
    run = mortal.new_run.asked=3)
    gone, stays = visit(mortal.url), visit(mortal.url)
    gone.label_run(run.directory.name)
    first = gone.sample
    # Longer than a lease: who is there keeps what is before them.
    stays.page.wait_for_timeout(1500 * LEASE_SECONDS)
    stays.label_run(run.directory.name)
    expect(stays.page.locator(".labeling .empty")).to_contain_text("Others have the last pictures")

    gone.context.set_offline(True)
    expect(stays.page.locator(PICTURE)).to_have_attribute("data-sample-id", str(first), timeout=WAIT_MS)
    stays.answer("1")
    stays.all_sent()

    gone.context.set_offline(False)
    expect(gone.page.locator(".notice")).to_contain_text("was given to somebody else", timeout=WAIT_MS)
    assert run.said() == {first: "1"}


def test_failures__a_refused_answer_is_told_and_stops_no_other(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    name, (first, second) = run.directory.name, run.asked[:2]
    visitor = visit()
    visitor.open(token=place.secrets["ann"])
    entries = [
        {"id": "1", "run": name, "who": "ann", "sample_id": first, "round": 2, "label": "glyph"},
        {"id": "2", "run": "gone", "who": "ann", "sample_id": first, "round": 2, "label": "one"},
        {"id": "3", "run": name, "who": "ann", "sample_id": second, "round": 2, "label": "two"},
    ]
    visitor.page.evaluate("text => localStorage.setItem('dm2at.outbox.x', text)", json.dumps({"beat": 0, "entries": entries}))
    visitor.page.reload()
    visitor.page.locator("#who").wait_for()
    visitor.all_sent()

    notices = visitor.page.locator(".notice")
    expect(notices).to_have_count(2)
    expect(notices.first).to_contain_text(f"“glyph” for sample {first} of {name} was refused")
    expect(notices.nth(1)).to_contain_text(f"“one” for sample {first} of gone was refused")
    notices.first.get_by_role("button", name="Dismiss").click()
    expect(notices).to_have_count(1)
    assert run.said() == {second: "two"}


def test_failures__a_run_that_is_not_there_is_said_in_words(place: Place, visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.open("/#/runs/nowhere/label", place.secrets["ann"])
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("There is no such run")
    visitor.page.get_by_role("link", name="All runs").click()
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("Runs")
