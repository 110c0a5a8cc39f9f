"""A person at a browser: what they do on the page, and what must never happen there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request

PICTURE = "figure.picture"
SHOWN = f"{PICTURE}[data-sample-id]"
EMPTY = ".labeling .empty:not([hidden])"
OVER = f"{EMPTY}[data-state=answered], {EMPTY}[data-state=idle]"
GONE = """
sample => {
    const [picture, empty] = ["figure.picture", ".labeling .empty"].map(each => document.querySelector(each));
    return !empty.hidden || ![undefined, sample].includes(picture.dataset.sampleId);
}
"""
"""Whether another picture than this sample's can be seen, or none is left."""
WAIT_MS = 20_000
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


class PageLabeler:
    """Labels through the page as a person does: looks which picture is there, and answers it.

    Args:
        page: At the page of a run to label on, or on its way there.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def sample(self) -> int:
        """Id of the picture to label, once it can be seen."""
        return int(self.page.locator(SHOWN).get_attribute("data-sample-id", timeout=WAIT_MS) or "")

    def answer(self, name: str | None, *, by: str = "keys") -> None:
        """Say what the picture is (None for "cannot tell"), and wait until another is there, or none is left.

        Args:
            name: Of a class.
            by: `keys`: the class's digit, where it has one; `buttons`: a click.
        """
        sample = self.sample
        button = self.answer_button(name)
        key = "?" if name is None else button.locator("kbd").text_content()
        if by == "keys" and key:
            self.page.keyboard.press(key)
        else:
            button.click()
        self.page.wait_for_function(GONE, arg=str(sample), timeout=WAIT_MS)

    def label(self, count: int, name_of: Callable[[int], str | None], *, by: str = "keys") -> list[int]:
        """Label so many pictures, or as many as there are.

        Args:
            count: How many at most.
            name_of: Class of a sample, by its id; None for "cannot tell".
            by: As in `answer`.

        Returns:
            The samples, in the order in which the page showed them; all of their answers are acknowledged.
        """
        done: list[int] = []
        while len(done) < count:
            self.page.locator(f"{SHOWN}, {OVER}").first.wait_for(timeout=WAIT_MS)
            if not self.page.locator(SHOWN).count():
                break
            done.append(self.sample)
            self.answer(name_of(done[-1]), by=by)
        self.all_sent()
        return done

    def all_sent(self) -> None:
        """Wait until the service has acknowledged every answer."""
        self.page.locator("body[data-unsent='0']").wait_for(state="attached", timeout=WAIT_MS)

    def answer_button(self, name: str | None) -> Locator:
        """The button of a class; that of "cannot tell" for None."""
        if name is None:
            return self.page.get_by_role("button", name="Cannot tell")
        return self.page.locator(f".classes button[data-class={json.dumps(name)}]")


class Visitor(PageLabeler):
    """A person with a browser of their own, at the service.

    Args:
        browser: Chromium.
        url: Of the service.
        **options: Of the browser's context: viewport, colour scheme.

    Attributes:
        faults: What must not happen on any page: errors, violations of its policy, requests to other hosts.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.faults: list[str] = []
        self.context = browser.new_context(base_url=url, **options)
        self.context.set_default_timeout(WAIT_MS)
        self.context.add_init_script(VIOLATIONS)
        super().__init__(self.new_page())

    def new_page(self) -> Page:
        """Another tab of the same browser."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", self._heard)
        page.on("request", self._asked)
        page.on("dialog", lambda dialog: dialog.accept())
        return page

    def open(self, path: str = "/", token: str | None = None) -> None:
        """Open a page of the service, logging in where it asks for a token."""
        self.page.goto(path)
        if token is not None:
            self.log_in(token)
            self.page.locator("dialog.login").wait_for(state="detached")

    def label_run(self, run: str, token: str | None = None) -> None:
        """Open the page to label on, and wait for its first picture, or the word that there is none."""
        self.open(f"/#/runs/{run}/label", token)
        self.page.locator(f"{SHOWN}, {EMPTY}:not([data-state=loading])").first.wait_for()

    def log_in(self, token: str) -> None:
        """Type a token."""
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Log in").click()

    def leave(self) -> None:
        """Close the browser as people do: the page is told."""
        self.check()
        self.page.goto("about:blank")
        self.context.close()

    def check(self) -> None:
        """Insist that nothing happened on any page that must not."""
        for page in self.context.pages:
            self.faults += page.evaluate("window.violations ?? []")
        assert not self.faults

    def _heard(self, message: ConsoleMessage) -> None:
        # A server that refuses, or is gone, is told of so by the browser itself.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "blob:", "data:")):
            self.faults.append(f"asked for {request.url}")
