"""A round labeled by one person: by keys, by buttons, with second thoughts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from .conftest import DIGITS, Place
from .visitor import EMPTY, PICTURE, Visitor


@pytest.fixture
def ann(place: Place, visit: Callable[..., Visitor]) -> Callable[..., Visitor]:
    """`ann(run)`: somebody who may label, with the first picture of a run before her."""

    def sit_down(run: str, **options: object) -> Visitor:
        visitor = visit(**options)
        visitor.label_run(run, place.secrets["ann"])
        return visitor

    return sit_down


def test_labeling__a_whole_round_by_keys(place: Place, ann: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)

    shown = visitor.label(len(run.asked), lambda sample: run.truth[sample])

    assert shown == run.asked
    assert run.said() == {sample: run.truth[sample] for sample in run.asked}
    assert {word["source"] for word in run.words()} == {"ann"}
    expect(visitor.page.locator(f"{EMPTY}[data-state=answered]")).to_contain_text("Round 2 is answered")
    expect(visitor.page.locator(".progress")).to_contain_text("12 of 12 answered")
    expect(visitor.page.locator(".progress")).to_contain_text("12 by you")

    # Also the last answer can be taken back, as long as the run has not gone on.
    visitor.page.keyboard.press("Backspace")
    assert visitor.sample == run.asked[-1]
    visitor.answer(None)
    expect(visitor.page.locator(f"{EMPTY}[data-state=answered]")).to_be_visible()
    visitor.all_sent()
    assert run.said()[run.asked[-1]] is None


def test_labeling__by_buttons_a_finger_can_hit(place: Place, ann: Callable[..., Visitor]) -> None:
    run = place.new_run(asked=3)
    visitor = ann(run.directory.name, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    buttons = visitor.page.locator(".classes button, .actions button")
    sizes = [button.bounding_box() for button in buttons.all()]
    assert all(size and min(size["width"], size["height"]) >= 44 for size in sizes)

    names = {run.asked[0]: "seven", run.asked[1]: None, run.asked[2]: "nine"}
    for name in names.values():
        sample = visitor.sample
        visitor.answer_button(name).tap()
        expect(visitor.page.locator(f"{PICTURE}[data-sample-id='{sample}']")).to_have_count(0)
    visitor.all_sent()
    assert run.said() == names


def test_labeling__first_letters_narrow_until_one_class_is_left(
    place: Place, ann: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=6)
    visitor = ann(run.directory.name)
    page = visitor.page
    hint = page.locator(".hint")
    first, second, third, fourth, fifth, _ = run.asked

    page.keyboard.press("z")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(second))
    page.keyboard.press("t")
    expect(hint).to_contain_text("two, three")
    expect(page.locator(".classes button:not(.dim)")).to_have_text(["3two", "4three"])
    page.keyboard.press("w")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(third))
    page.keyboard.type("sx")
    expect(hint).to_contain_text("No class begins with “sx”")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".classes button.marked")).to_have_text("8seven")
    page.keyboard.press("Enter")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(fourth))
    page.keyboard.press("f")
    page.keyboard.press("Backspace")
    expect(page.locator(".classes button.dim")).to_have_count(0)
    page.keyboard.press("f")
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(fifth))
    visitor.all_sent()
    assert run.said() == {first: "zero", second: "two", third: "seven", fourth: "one"}


def test_labeling__digits_are_names_where_the_classes_are_numbers(
    place: Place, ann: Callable[..., Visitor]
) -> None:
    run = place.new_run(asked=2, classes=[str(digit) for digit in range(10)])
    visitor = ann(run.directory.name)
    expect(visitor.page.locator(".classes kbd").first).to_be_empty()
    visitor.page.keyboard.press("3")
    expect(visitor.page.locator(PICTURE)).to_have_attribute("data-sample-id", str(run.asked[1]))
    visitor.all_sent()
    assert run.said() == {run.asked[0]: "3"}


def test_labeling__undo_goes_back_and_the_new_answer_is_a_correction(
    place: Place, ann: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    page, (first, second, third) = visitor.page, run.asked[:3]
    page.keyboard.press("Backspace")
    expect(page.locator("#last")).to_have_text("There is no earlier picture to go back to.")
    visitor.answer("one")
    visitor.answer("two")

    page.keyboard.press("Backspace")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(second))
    expect(page.locator(".banner")).to_have_text("You said two. A new answer corrects it.")
    expect(visitor.answer_button("two")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(first))
    visitor.answer("seven")
    expect(page.locator("#last")).to_have_text("Corrected: seven, was one.")
    expect(page.locator("#polite")).to_contain_text("Corrected: seven, was one.")

    assert visitor.sample == third
    visitor.all_sent()
    assert run.said() == {first: "seven", second: "two"}
    assert [word["label"] for word in run.words() if word["sample_id"] == first] == ["one", "seven"]
    expect(page.locator(".progress")).to_contain_text("2 of 12 answered")
    # One's own correction is nobody else's word.
    expect(page.locator(".notice")).to_have_count(0)


def test_labeling__the_same_answer_again_is_none(place: Place, ann: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    visitor.answer("one")
    visitor.page.keyboard.press("Backspace")
    visitor.answer("one")
    expect(visitor.page.locator("#last")).to_have_text("Still one.")
    visitor.all_sent()
    assert len(run.words()) == 1


def test_labeling__cannot_tell_by_space_or_question_mark(place: Place, ann: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    page, (first, second, third, fourth) = visitor.page, run.asked[:4]
    visitor.answer_button("five").click()
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(second))
    # After a click the space bar must not press the button again.
    page.keyboard.press("Space")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(third))
    page.keyboard.press("?")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(fourth))
    # Who came to a button by keys presses it by the space bar.
    visitor.answer_button("four").focus()
    page.keyboard.press("Space")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(run.asked[4]))
    visitor.all_sent()
    assert run.said() == {first: "five", second: None, third: None, fourth: "four"}


def test_labeling__arrows_go_through_the_pictures_at_hand(place: Place, ann: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    page, asked = visitor.page, run.asked
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(asked[2]))
    expect(page.locator(".thumb[aria-current]")).to_have_attribute("data-sample", str(asked[2]))
    visitor.answer("three")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(asked[3]))
    page.locator(f".thumb[data-sample='{asked[2]}']").click()
    expect(page.locator(".banner")).to_contain_text("You said three")
    page.keyboard.press("ArrowRight")
    visitor.answer("zero")
    visitor.all_sent()
    assert run.said() == {asked[2]: "three", asked[0]: "zero"}


def test_labeling__a_key_held_down_answers_once(place: Place, ann: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    visitor.page.keyboard.down("1")
    expect(visitor.page.locator(PICTURE)).to_have_attribute("data-sample-id", str(run.asked[1]))
    for _ in range(5):
        visitor.page.keyboard.down("1")
    visitor.page.keyboard.up("1")
    visitor.page.wait_for_timeout(300)
    visitor.all_sent()
    assert run.said() == {run.asked[0]: "zero"}


def test_labeling__nobody_labels_what_cannot_be_seen(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = visit()
    visitor.context.route("**/picture", lambda route: route.abort())
    visitor.open(f"/#/runs/{run.directory.name}/label", place.secrets["ann"])
    expect(visitor.page.locator(f"{PICTURE} .message")).to_contain_text("This picture cannot be shown")
    visitor.page.keyboard.press("1")
    visitor.answer_button("one").click(force=True)

    visitor.context.unroute("**/picture")
    visitor.page.get_by_role("button", name="Try again").click()
    visitor.answer("two")
    visitor.all_sent()
    assert run.said() == {run.asked[0]: "two"}


def test_labeling__a_class_among_a_thousand_by_a_filter(place: Place, ann: Callable[..., Visitor]) -> None:
    names = [f"{kind} number {place}" for place in range(100) for kind in DIGITS]
    run = place.new_run(asked=4, classes=names, committed=0)
    visitor = ann(run.directory.name)
    page = visitor.page
    expect(page.locator(".classes button")).to_have_count(1000)
    expect(page.locator(".classes kbd:not(:empty)")).to_have_count(10)

    page.keyboard.press("/")
    page.keyboard.type("number 77")
    expect(page.locator(".classes button:visible")).to_have_count(10)
    expect(page.locator(".hint")).to_have_text("10 of 1000 classes")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(run.asked[1]))
    expect(page.locator(".classes button:visible")).to_have_count(1000)

    # Letters narrow too, and digits are those of what is left.
    page.keyboard.type("sevenn")
    expect(page.locator(".classes button:visible")).to_have_count(100)
    expect(page.locator(".classes button:visible").nth(2)).to_have_text("3seven number 2")
    page.keyboard.press("3")
    expect(page.locator(PICTURE)).to_have_attribute("data-sample-id", str(run.asked[2]))
    visitor.all_sent()
    assert run.said() == {run.asked[0]: "one number 77", run.asked[1]: "seven number 2"}


def test_labeling__the_prediction_is_hidden_until_it_is_asked_for(
    place: Place, ann: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    page, (first, second) = visitor.page, run.asked[:2]
    words = page.locator(f"{PICTURE} .predicted")
    expect(words).to_have_count(0)

    page.get_by_role("button", name="Show prediction").click()
    expect(words).to_have_text(f"predicted {run.predicted(first)}")
    visitor.answer("one")
    expect(words).to_have_count(0)
    page.keyboard.press("Shift+P")
    expect(words).to_have_text(f"predicted {run.predicted(second)}")

    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Show what the model predicts").check()
    page.get_by_role("button", name="Close").click()
    visitor.page = visitor.new_page()
    visitor.label_run(run.directory.name, place.secrets["ann"])
    expect(visitor.page.locator(f"{PICTURE} .predicted")).to_be_visible()


def test_labeling__neighbors_and_the_twin_stand_beside_the_picture(
    place: Place, ann: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    page = visitor.page
    near = page.locator(".neighbors li")
    expect(near).to_have_count(5)
    for item in near.all():
        expect(item.locator(".name")).to_have_text(run.truth[int(item.get_attribute("data-neighbor") or -1)])
        assert item.locator("img").evaluate("async (img) => (await img.decode(), img.naturalWidth)") == 8

    picture = page.locator(f"{PICTURE} img")
    before = picture.get_attribute("src") or ""
    assert picture.evaluate("img => [img.clientWidth % 8, img.clientWidth >= 200, img.className]") == [
        0,
        True,
        "pixels",
    ]
    page.keyboard.press("Shift+T")
    expect(page.get_by_role("button", name="Adversarial twin")).to_have_attribute("aria-pressed", "true")
    expect(picture).not_to_have_attribute("src", before)
    page.keyboard.press("Shift+T")
    expect(picture).to_have_attribute("src", before)

    page.keyboard.press("Shift+N")
    expect(page.locator(".neighbors")).to_be_hidden()
    page.reload()
    page.locator(PICTURE).wait_for()
    expect(page.locator(".neighbors")).to_be_hidden()


def test_labeling__keys_can_be_turned_off(place: Place, ann: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = ann(run.directory.name)
    page = visitor.page
    page.get_by_role("button", name="Settings").click()
    # Keys are the dialog's, as long as it is open.
    page.keyboard.press("1")
    page.get_by_label("Label by keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    visitor.answer_button("two").click()
    visitor.all_sent()
    assert run.said() == {run.asked[0]: "two"}
