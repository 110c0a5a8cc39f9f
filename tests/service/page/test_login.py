"""Who comes to the page: with a token, without, with one that is taken back."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from .conftest import Place
from .visitor import Visitor


def test_login__a_wrong_token_is_refused_in_words_and_a_right_one_shows_the_runs(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    visitor = visit()
    visitor.open()
    expect(visitor.page.get_by_label("Token")).to_be_focused()

    visitor.log_in("not-a-token")
    expect(visitor.page.get_by_role("alert").filter(has_text="does not know this token")).to_be_visible()
    visitor.log_in("kein-Schlüssel")
    expect(visitor.page.get_by_role("alert").filter(has_text="does not know this token")).to_be_visible()
    visitor.page.keyboard.press("Escape")
    visitor.page.keyboard.press("Escape")
    expect(visitor.page.get_by_label("Token")).to_be_visible()

    visitor.log_in(place.secrets["ann"])
    expect(visitor.page.get_by_role("link", name=run.directory.name)).to_be_visible()
    expect(visitor.page.locator("#who")).to_contain_text("ann")


def test_login__lasts_as_long_as_the_tab(place: Place, visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.open(token=place.secrets["ann"])
    visitor.page.reload()
    expect(visitor.page.locator("#who")).to_contain_text("ann")
    assert place.secrets["ann"] not in visitor.page.evaluate("JSON.stringify(localStorage)")

    visitor.page = visitor.new_page()
    visitor.open()
    expect(visitor.page.get_by_label("Token")).to_be_visible()

    visitor.log_in(place.secrets["bob"])
    visitor.page.get_by_role("button", name="Log out").click()
    expect(visitor.page.get_by_label("Token")).to_be_visible()
    assert visitor.page.evaluate("sessionStorage.getItem('dm2at.token')") is None


def test_login__each_role_sees_what_it_may_do(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run().directory.name
    seen = {}
    for name in ("rita", "ann", "olga"):
        visitor = visit()
        visitor.open(f"/#/runs/{run}", place.secrets[name])
        visitor.page.get_by_role("heading", name="Where it stands").wait_for()
        tabs = visitor.page.get_by_role("navigation", name="Pages of the run")
        seen[name] = (tabs.inner_text().split(), visitor.page.get_by_role("button", name="Pause").count())
    assert seen == {
        "rita": (["Overview"], 0),
        "ann": (["Overview", "Label"], 0),
        "olga": (["Overview", "Label", "Disagreements"], 1),
    }


def test_login__a_token_taken_back_while_labeling_costs_nothing(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    visitor = visit()
    visitor.label_run(run.directory.name, place.secrets["eve"])
    first = visitor.sample
    visitor.answer(run.truth[first])
    visitor.all_sent()

    visitor.context.set_offline(True)
    second = visitor.sample
    visitor.answer(run.truth[second])
    renewed = place.renew("eve")
    visitor.context.set_offline(False)
    expect(visitor.page.get_by_role("heading", name="Log in again")).to_be_visible()
    assert second not in run.said()

    visitor.log_in(renewed)
    visitor.all_sent()
    assert run.said() == {first: run.truth[first], second: run.truth[second]}
    assert visitor.sample not in (first, second)


def test_login__answers_of_one_person_are_never_sent_by_another(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    visitor = visit()
    visitor.label_run(run.directory.name, place.secrets["kim"])
    visitor.context.set_offline(True)
    sample = visitor.sample
    visitor.answer("zero")
    renewed = place.renew("kim")
    visitor.context.set_offline(False)

    visitor.log_in(place.secrets["bob"])
    expect(visitor.page.locator("#who")).to_contain_text("bob")
    expect(visitor.page.locator("#unsent")).to_contain_text("1 answer of kim waits")
    assert run.said() == {}

    visitor.page.get_by_role("button", name="Log out").click()
    visitor.log_in(renewed)
    expect(visitor.page.locator("#who")).to_contain_text("kim")
    visitor.all_sent()
    assert run.said() == {sample: "zero"}
    assert [word["source"] for word in run.words()] == ["kim"]
