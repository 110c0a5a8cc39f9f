"""Several people at one round: never the same picture at once, and what becomes of different opinions."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from .conftest import Place
from .visitor import EMPTY, PICTURE, SHOWN, Visitor

HELD = 8
"""Pictures that the page holds for a person."""


def thumbs(visitor: Visitor) -> set[int]:
    """Samples that a person has at hand."""
    found = visitor.page.locator(".thumb").all()
    return {int(thumb.get_attribute("data-sample") or "") for thumb in found}


def test_several__two_people_get_different_pictures_and_end_a_round_together(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=2 * HELD + 4)
    name = run.directory.name
    ann, bob = visit(), visit()
    ann.label_run(name, place.secrets["ann"])
    bob.label_run(name, place.secrets["bob"])
    assert len(thumbs(ann)) == len(thumbs(bob)) == HELD
    assert not thumbs(ann) & thumbs(bob)

    done: dict[str, list[int]] = {"ann": [], "bob": []}
    while len(done["ann"]) + len(done["bob"]) < len(run.asked):
        for who, visitor in (("ann", ann), ("bob", bob)):
            # At the end, one may have to wait for what the other has still before them.
            if visitor.page.locator(SHOWN).count():
                done[who] += visitor.label(1, lambda sample: run.truth[sample])
    for visitor in (ann, bob):
        expect(visitor.page.locator(f"{EMPTY}[data-state=answered]")).to_be_visible()

    assert sorted(done["ann"] + done["bob"]) == sorted(run.asked)
    words = run.words()
    assert {(word["sample_id"], word["source"]) for word in words} == {
        (sample, who) for who in done for sample in done[who]
    }
    assert len(words) == len(run.asked)
    expect(ann.page.locator(".progress")).to_contain_text(f"20 of 20 answered{len(done['ann'])} by you")


def test_several__who_leaves_gives_the_pictures_to_the_others(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=4)
    ann, bob = visit(), visit()
    ann.label_run(run.directory.name, place.secrets["ann"])
    bob.label_run(run.directory.name, place.secrets["bob"])
    expect(bob.page.locator(f"{EMPTY}[data-state=held]")).to_contain_text("Others have the last pictures")

    ann.page.get_by_role("link", name="Overview").click()
    assert bob.sample == run.asked[0]
    # Who comes back is given what is left, not what was theirs.
    ann.page.get_by_role("link", name="Label", exact=True).click()
    expect(ann.page.locator(f"{EMPTY}[data-state=held]")).to_be_visible()
    bob.leave()
    assert ann.sample == run.asked[0]


def test_several__another_tab_of_the_same_person_has_other_pictures(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=2 * HELD)
    ann = visit()
    ann.label_run(run.directory.name, place.secrets["ann"])
    first = thumbs(ann)
    stored = ann.page.evaluate("JSON.stringify(sessionStorage)")

    # As a browser duplicates a tab: with what it has stored for the session.
    ann.page = ann.new_page()
    ann.page.add_init_script(f"Object.assign(sessionStorage, {stored})")
    ann.label_run(run.directory.name)
    assert len(thumbs(ann)) == HELD
    assert not thumbs(ann) & first


def test_several__the_pictures_at_hand_are_the_same_after_a_reload(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=2 * HELD)
    ann = visit()
    ann.label_run(run.directory.name, place.secrets["ann"])
    before = thumbs(ann)
    ann.page.reload()
    ann.page.locator(SHOWN).wait_for()
    assert thumbs(ann) == before


def test_several__an_operator_settles_what_people_disagree_about(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=2)
    name, (first, second) = run.directory.name, run.asked
    ann, bob, olga = visit(), visit(), visit()
    ann.label_run(name, place.secrets["ann"])
    # Answered elsewhere while Ann has it before her: she is told, and hers counts.
    bob.open(f"/#/runs/{name}", place.secrets["bob"])
    bob.page.evaluate(
        """async ([run, sample]) => {
            const token = JSON.parse(sessionStorage.getItem("dm2at.token"));
            await fetch(`api/v1/runs/${run}/labels`, {
                method: "POST",
                headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
                body: JSON.stringify({ answers: [{ sample_id: sample, label: "two" }] }),
            });
        }""",
        [name, first],
    )
    ann.answer("seven")
    expect(ann.page.locator(".notice")).to_contain_text("answered by somebody meanwhile (was 'two')")
    ann.answer("five")
    ann.all_sent()

    olga.open(f"/#/runs/{name}/disagreements", place.secrets["olga"])
    item = olga.page.locator(f".disagreements li[data-sample-id='{first}']")
    expect(olga.page.locator(".disagreements > li")).to_have_count(1)
    expect(item.locator(".said li")).to_have_count(2)
    expect(item.locator(".said li").first).to_contain_text("two by bob")
    expect(item.locator(".said .counts")).to_contain_text("seven by ann")
    picture = item.locator("img[src]")
    assert picture.evaluate("async (img) => (await img.decode(), img.naturalWidth)") == 8
    item.get_by_role("button", name="two").click()
    expect(item.locator(".verdict")).to_have_text("Settled: two.")
    expect(item.locator(".said .counts")).to_contain_text("two by olga")
    item.get_by_role("combobox").select_option("cannot tell")
    item.get_by_role("button", name="Settle").click()
    expect(item.locator(".verdict")).to_have_text("Settled: cannot tell.")
    assert run.said() == {first: None, second: "five"}


def test_several__the_page_goes_on_with_the_next_round(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run(asked=2)
    ann = visit()
    ann.label_run(run.directory.name, place.secrets["ann"])
    ann.label(2, lambda sample: run.truth[sample])
    expect(ann.page.locator(f"{EMPTY}[data-state=answered]")).to_be_visible()

    later = run.next_round(3)
    expect(ann.page.locator(PICTURE)).to_have_attribute("data-sample-id", str(later.asked[0]))
    expect(ann.page.locator("#polite")).to_contain_text("Round 3 awaits labels")
    assert ann.label(9, lambda sample: run.truth[sample]) == later.asked
