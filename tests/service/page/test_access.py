"""The page for everybody: by keys alone, by ear, in the dark, on a phone, and without any other host."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import dm2at_ray.service

from .conftest import DIGITS, Place
from .visitor import PICTURE, Visitor

FILES = Path(dm2at_ray.service.__file__).parent / "page"
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core, as a script."""
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("needs axe-playwright-python")
    return Path(found.origin).with_name("axe.min.js").read_text()


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds on a page: rule, and where."""
    if page.evaluate("window.axe === undefined"):
        # Evaluated by the browser's debugger, as the page's policy lets no foreign script in.
        page.evaluate(axe)
    found = page.evaluate("rules => axe.run({runOnly: rules})", RULES)
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize(
    "options",
    [{"color_scheme": "light"}, {**PHONE, "color_scheme": "dark"}],
    ids=["light", "dark-phone"],
)
def test_access__no_view_breaks_a_rule(
    place: Place, visit: Callable[..., Visitor], axe: str, options: dict[str, Any]
) -> None:
    run = place.new_run()
    run.answer(run.asked[:2])
    visitor = visit(**options)
    page, name = visitor.page, run.directory.name
    found = {}
    visitor.open("/")
    page.get_by_label("Token").wait_for()
    found["login"] = violations(page, axe)
    visitor.log_in(place.secrets["olga"])
    page.get_by_role("link", name=name).wait_for()
    found["runs"] = violations(page, axe)
    page.goto(f"/#/runs/{name}")
    page.get_by_text("As a table").click()
    page.get_by_role("region", name="People").wait_for()
    found["run"] = violations(page, axe)
    page.goto(f"/#/runs/{name}/label")
    visitor.answer("two")
    visitor.answer("three")
    page.keyboard.press("Backspace")
    page.get_by_role("button", name="Show prediction").click()
    page.keyboard.press("s")
    found["label"] = violations(page, axe)
    page.get_by_role("button", name="Settings").click()
    found["settings"] = violations(page, axe)
    page.get_by_role("button", name="Close").click()
    run.say(run.asked[0], "nine")
    page.goto(f"/#/runs/{name}/disagreements")
    page.locator(".disagreements > li").first.wait_for()
    found["disagreements"] = violations(page, axe)
    assert not {view: broken for view, broken in found.items() if broken}


def test_access__nothing_is_wider_than_a_phone(place: Place, visit: Callable[..., Visitor]) -> None:
    names = [*DIGITS[:9], "a class with a name that is far longer than any button of a phone is wide"]
    run = place.new_run(classes=names)
    visitor = visit(**PHONE)
    visitor.open(token=place.secrets["olga"])
    for path, there in {"": "#labels table", "/label": PICTURE, "/disagreements": ".empty"}.items():
        visitor.open(f"/#/runs/{run.directory.name}{path}")
        visitor.page.locator(there).first.wait_for()
        assert visitor.page.evaluate("document.documentElement.scrollWidth") == 360
    # What is pressed all the time is on the screen without scrolling.
    visitor.label_run(run.directory.name)
    for button in ("Cannot tell", "Undo"):
        expect(visitor.page.get_by_role("button", name=button)).to_be_in_viewport(ratio=1)
    expect(visitor.page.locator(f"{PICTURE} img")).to_be_in_viewport(ratio=1)


def test_access__colours_follow_the_system_unless_they_are_set(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    visitor = visit(color_scheme="dark")
    visitor.open(token=place.secrets["rita"])
    page = visitor.page
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 23, 26)"
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate(background) == "rgb(20, 23, 26)"
    page.reload()
    assert page.evaluate(background) == "rgb(20, 23, 26)"


def test_access__still_for_who_wants_no_motion(place: Place, visit: Callable[..., Visitor]) -> None:
    visitor = visit(reduced_motion="reduce")
    visitor.open(token=place.secrets["rita"])
    visitor.page.get_by_role("button", name="Settings").wait_for()
    moving = (
        "[...document.querySelectorAll('*')]"
        ".filter(element => getComputedStyle(element).transitionDuration !== '0s').length"
    )
    assert visitor.page.evaluate(moving) == 0
    visitor.page.emulate_media(reduced_motion="no-preference")
    assert visitor.page.evaluate(moving) > 0


def test_access__tab_goes_through_the_page_and_out_again(place: Place, visit: Callable[..., Visitor]) -> None:
    run = place.new_run()
    visitor = visit()
    visitor.label_run(run.directory.name, place.secrets["ann"])
    page = visitor.page
    page.evaluate("document.activeElement.blur()")
    where = "document.activeElement.textContent.trim() || document.activeElement.ariaLabel || ''"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(f"document.activeElement === document.body ? null : {where}")
        if focused is None:
            break
        assert page.evaluate(outline) != "none", focused
        seen.append(focused)
    else:
        pytest.fail(f"the focus never leaves the page: {seen}")
    assert seen[0] == "Skip to the content"
    stations = ["Overview", "1zero", "0nine", "SpaceCannot tell", "⌫Undo", "Keys"]
    assert [name for name in seen if name in stations] == stations

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_access__what_happens_is_said_to_who_cannot_see_it(
    place: Place, visit: Callable[..., Visitor]
) -> None:
    run = place.new_run()
    visitor = visit()
    visitor.label_run(run.directory.name, place.secrets["ann"])
    page = visitor.page
    status = page.locator("#polite[role=status]")
    visitor.answer_button("four").focus()
    page.keyboard.press("Enter")
    expect(status).to_have_text("Said: four. Next: rank 2.")
    # The focus stays where the next answer is given.
    expect(visitor.answer_button("four")).to_be_focused()
    page.locator(f"{PICTURE}[data-rank='1']").wait_for()
    page.keyboard.press("?")
    expect(status).to_have_text("Said: cannot tell. Next: rank 3.")
    page.keyboard.press("t")
    expect(status).to_contain_text("“t”: two, three")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert page.title() == f"{run.directory.name} · overview · dm2at-ray"


def test_access__the_page_names_no_other_host_and_loads_all_its_modules_at_once() -> None:
    texts = {path.name: path.read_text() for path in FILES.iterdir()}
    # SVG's namespace is a name, not an address.
    hosts = {
        (name, host)
        for name, text in texts.items()
        for host in re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"]*", text)
        if not host.endswith("//www.w3.org/2000/svg")
    }
    assert not hosts
    modules = {name for name in texts if name.endswith(".js")} - {"theme.js", "main.js", "types.js"}
    preloaded = re.findall(r'rel="modulepreload" href="static/([^"]+)"', texts["index.html"])
    assert sorted(preloaded) == sorted(modules)
