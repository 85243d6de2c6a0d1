"""A real browser, driven by Playwright: what a page asks for and complains about, and a node's page in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from support.nodes import end, make_node
from support.ports import reserve_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = [
    "NARROW",
    "NEEDS_CHROMIUM",
    "PATIENCE_MS",
    "WIDE",
    "Seen",
    "Tab",
    "browser",
    "chromium",
    "link",
    "open_tab",
    "opened",
    "page_node",
    "shared_tab",
    "sideways",
    "tab",
]

# The same engine without windows takes a third of the CPU time.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_PROGRAM = next((found for name in _NAMES if (found := shutil.which(name))), "")
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}
PATIENCE_MS = 60_000  # of a machine that is busy with something else
_WITHOUT = "no Playwright here: it is in the extra dev" if find_spec("playwright") is None else ""
NEEDS_CHROMIUM = pytest.mark.skipif(
    bool(_WITHOUT or not _PROGRAM),
    reason=_WITHOUT or "no Chromium here; on Debian: apt-get install chromium-headless-shell",
)
# A browser with windows loads a page of its own for the address bar of each, and starts a process ahead of each load:
# two thirds of its CPU time. The other names are Playwright's, whose own list this one replaces.
_SWITCHED_OFF = (
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup", "PreloadTopChromeWebUI",
    "SpareRendererForSitePerProcess", "AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect",
    "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "MediaRouter", "NetworkTimeServiceQuerying",
    "OptimizationHints", "PaintHolding", "PreconnectToSearch", "ThirdPartyStoragePartitioning",
)  # fmt: skip
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


@contextmanager
def chromium() -> Iterator[Any]:
    """Starts the browser; one is enough for all tests of a module."""
    from playwright.sync_api import sync_playwright

    # A proxy that does not exist: a request that leaves the machine fails, and is seen.
    proxy = {"server": "127.0.0.1:9", "bypass": "127.0.0.1,127.0.0.2"}
    switches = ["--no-sandbox", "--disable-gpu", f"--disable-features={','.join(_SWITCHED_OFF)}"]
    options = {"args": switches, "proxy": proxy}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PROGRAM, **options)
        yield browser
        browser.close()


class Seen:
    """A page, the addresses that it asked for, and what it said to the console, errors and dialogs included."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(error.stack or str(error)))
        page.on("dialog", self._dismiss)

    def _dismiss(self, dialog: Any) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()  # else the page waits for it


@contextmanager
def opened(browser: Any, **options: Any) -> Iterator[Seen]:
    """Opens an empty page; `options` are those of Playwright's `new_page`."""
    page = browser.new_page(**options)
    yield Seen(page)
    page.close()


class Tab(Seen):
    """A tab on the page of a node; `expected` are parts of what it may say."""

    def __init__(self, page: Page, url: str) -> None:
        super().__init__(page)
        self.url = url
        self.expected: list[str] = []
        page.set_default_timeout(PATIENCE_MS)

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
        wrong = [one for one in self.said if not any(part in one for part in self.expected)]
        self.asked, self.said, self.expected = [], [], []
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
