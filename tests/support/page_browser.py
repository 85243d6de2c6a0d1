"""A browser that looks at the page of a node, and fails for whatever a page must not do."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from support.browser import chromium
from support.nodes import end, make_node
from support.ports import reserve_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}
PATIENCE_MS = 60_000  # of a machine that is busy with something else
LOADED = "!document.querySelector('[aria-busy]') && document.querySelector('main').firstChild !== null"
# Within the page: a question from here costs more than the page's whole answer.
UNTIL = """async patience => {
    const ends = performance.now() + patience;
    while (!(%s)) {
        if (performance.now() > ends) return false;
        await new Promise(done => setTimeout(done, 10));
    }
    return true;
}"""
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Tab:
    """A tab, what it asked for, and what went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.expected: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error.stack or error}"))
        page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def go(self, fragment: str) -> None:
        """Goes to a view, as a link would, and waits until it has loaded."""
        self.page.evaluate("hash => { location.hash = hash; }", fragment)
        self.settle()

    def settle(self) -> None:
        """Waits until no part of the page is loading, and has seen its size, on which the rows of a list depend."""
        self.until(LOADED)
        self.page.evaluate(TWO_FRAMES)

    def until(self, expression: str) -> None:
        """Waits until an expression is true; Playwright's own way needs `eval`, which the page forbids."""
        assert self.page.evaluate(UNTIL % expression, PATIENCE_MS), expression

    def forget(self) -> None:
        """Forgets what the page has kept, as if this were a browser that has never been here."""
        self.page.evaluate("localStorage.clear(), sessionStorage.clear()")
        self.page.goto("about:blank")

    def text(self, selector: str) -> str:
        """The text of the first match."""
        return self.page.locator(selector).first.inner_text()

    def seqs(self) -> list[int]:
        """The rows of the list on the screen that are drawn, in their order."""
        rows = "rows => rows.map(row => [Number(row.getAttribute('aria-rowindex')), Number(row.dataset.seq)])"
        return [seq for _, seq in sorted(self.page.locator("main .row[data-seq]").evaluate_all(rows))]

    def check(self) -> None:
        """Fails for messages of the console, errors, dialogs, and requests to others than the node."""
        host = urlsplit(self.url).netloc
        foreign = [
            url for url in self.asked if urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc != host
        ]
        wrong = [one for one in self.wrong if not any(part in one for part in self.expected)]
        self.asked, self.wrong, self.expected = [], [], []
        assert (wrong, foreign) == ([], [])


def sideways(tab: Tab) -> int:
    """By how many pixels the page is wider than the screen."""
    return tab.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def link(node) -> str:
    """A link to the page, as its owner gets it."""
    printed = node.cli("page")
    assert printed.returncode == 0, printed.stderr
    return next(word for word in printed.stdout.split() if "#token=" in word)


@pytest.fixture(scope="module")
def page_node(tmp_path_factory):
    """A node that is configured, not started, for the tests of a module."""
    home = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        node = make_node(home, reserve_port())
        yield node
        end(node)


@pytest.fixture(scope="module")
def browser():
    """One browser for the tests of a module."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def open_tab(browser):
    """Opens tabs, each in a context of its own."""
    contexts = []

    def opened(url: str, **options) -> Tab:
        context = browser.new_context(**{"viewport": WIDE, "timezone_id": "Europe/Berlin", **options})
        contexts.append(context)
        return Tab(context.new_page(), url)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def shared_tab(page_node, open_tab):
    """A browser with access, for the tests of a module: to open one and load the page costs more than most tests."""
    tab = open_tab(page_node.url)
    tab.page.goto(link(page_node))
    tab.page.wait_for_selector(".tile")
    return tab


@pytest.fixture
def tab(shared_tab):
    """The tab, signed in, on Now; whatever it did wrong fails the test at its end."""
    shared_tab.page.set_viewport_size(WIDE)
    shared_tab.page.emulate_media(color_scheme="light")
    shared_tab.go("#now")
    yield shared_tab
    shared_tab.check()
