"""A service that dies, leases that end, answers that are refused: nothing is lost, nothing doubled."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import APIResponse, Route, expect

from .conftest import Place
from .mortal import LEASE_SECONDS, MortalService
from .visitor import PICTURE, WAIT_MS, Visitor


def test_failures__a_killed_service_costs_no_answer_and_doubles_none(
    mortal: MortalService, visit: Callable[..., Visitor]
) -> None:
    run = mortal.new_run(asked=14)
    visitor = visit(mortal.url)
    # Nobody asks for a token where the service listens to its own machine only.
    visitor.label_run(run.directory.name)
    page = visitor.page
    watcher = visit(mortal.url)
    watcher.open(f"/#/runs/{run.directory.name}")
    standing = watcher.page.locator("#standing")
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

    expect(standing).to_contain_text("The line to the service is broken")

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
    expect(standing).to_contain_text(f"{len(done)} of 14 answered", timeout=WAIT_MS)
    expect(standing).not_to_contain_text("broken")
    visitor.label_run(run.directory.name)
    rest = visitor.label(14, lambda sample: run.truth[sample])
    assert sorted(done + rest) == sorted(run.asked)


def test_failures__pictures_of_who_went_away_go_to_others_and_nobody_else(
    mortal: MortalService, visit: Callable[..., Visitor]
) -> None:
    run = mortal.new_run(asked=3)
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


def test_failures__pictures_that_were_on_their_way_are_not_shown_again(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=20)
    visitor = visit()
    visitor.label_run(run.directory.name, place.secrets["ann"])
    answers: list[Route] = []
    leases: list[tuple[Route, APIResponse]] = []

    def hold_answers(route: Route) -> None:
        answers.append(route) if not answers else route.continue_()

    def hold_leases(route: Route) -> None:
        leases.append((route, route.fetch())) if not leases else route.continue_()

    visitor.context.route("**/labels", hold_answers)
    visitor.context.route("**/leases", hold_leases)
    # The lease is made out before the service knows the answers, and arrives when it knows them.
    for _ in range(4):
        visitor.answer("one")
    while not (answers and leases):
        visitor.page.wait_for_timeout(50)
    answers[0].continue_()
    visitor.all_sent()
    route, response = leases[0]
    route.fulfill(response=response)
    rest = visitor.label(16, lambda sample: run.truth[sample])
    assert sorted(rest) == sorted(run.asked[4:])


def test_failures__who_leaves_before_the_first_pictures_arrive_keeps_none(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=3)
    gone = visit()
    leases: list[APIResponse] = []
    # Made out by the service, and never seen by the page.
    gone.context.route("**/leases", lambda route: leases.append(route.fetch()))
    gone.open(f"/#/runs/{run.directory.name}/label", place.secrets["ann"])
    while not leases:
        gone.page.wait_for_timeout(50)
    assert len(leases[0].json()["queries"]) == 3
    gone.page.evaluate("location.hash = '#/'")
    expect(gone.page.get_by_role("heading", level=1)).to_have_text("Runs")

    other = visit()
    other.label_run(run.directory.name, place.secrets["bob"])
    assert sorted(other.label(3, lambda sample: run.truth[sample])) == sorted(run.asked)


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
        {"id": "3", "run": "gone", "who": "ann", "sample_id": second, "round": 2, "label": "six"},
        {"id": "4", "run": name, "who": "ann", "sample_id": second, "round": 2, "label": "two"},
    ]
    left = json.dumps({"beat": 0, "entries": entries})
    visitor.page.evaluate("left => localStorage.setItem('dm2at.outbox.of-a-closed-tab', left)", left)
    visitor.page.reload()
    visitor.page.locator("#who").wait_for()
    visitor.all_sent()

    notices = visitor.page.locator(".notice")
    expect(notices).to_have_count(3)
    expect(notices.first).to_contain_text(f"“glyph” for sample {first} of {name} was refused")
    expect(notices.nth(1)).to_contain_text(f"“one” for sample {first} of gone was refused")
    expect(notices.nth(2)).to_contain_text(f"“six” for sample {second} of gone was refused")
    notices.first.get_by_role("button", name="Dismiss").click()
    expect(notices).to_have_count(2)
    assert run.said() == {second: "two"}


def test_failures__a_run_that_is_not_there_is_said_in_words(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    visitor = visit()
    visitor.open("/#/runs/nowhere/label", place.secrets["ann"])
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("There is no such run")
    visitor.page.get_by_role("link", name="All runs").click()
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("Runs")
