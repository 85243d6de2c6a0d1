"""Fixture: an empty page that imports the modules as a served page does, and draws by them."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from support.browser import opened

DRAW = files("hearthnet.forensics.report") / "draw"
# As strict as a served page's: no script but of its own address, no text that becomes markup.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; require-trusted-types-for 'script'"
SHELL = '<!doctype html><title>x</title><link rel="stylesheet" href="/draw.css"><link rel="icon" href="data:,">'
CALL = """async ([module, name, data, more]) => {
  const host = document.createElement("div");
  document.body.replaceChildren(host);
  window.told = [];
  const onSpan = (span, isChosen) => told.push(["span", span?.id, isChosen]);
  const onLog = (log, isChosen) => told.push(["log", log?.seq, isChosen]);
  window.drawn = (await import(`/${module}.js`))[name](host, JSON.parse(data), more ?? { onSpan, onLog });
}"""


class Sheet:
    """A page on which one drawing is made after the other."""

    def __init__(self, seen):
        self.seen = seen
        self.page = seen.page

    def draw(self, module, name, data, more=None):
        """Draws by the function of a module."""
        self.page.evaluate(CALL, [module, name, json.dumps(data), more])
        return self.page.locator(".draw")

    def call(self, name, *arguments):
        """Returns the result of a function of `format.js`."""
        script = f"async (given) => (await import('/format.js')).{name}(...given)"
        return self.page.evaluate(script, list(arguments))

    def label(self):
        """Returns the words of the only drawing."""
        return self.page.locator("svg[role=img]").get_attribute("aria-label")

    def boxes(self, selector):
        """Returns x, y, width and height of each shape."""
        script = "all => all.map((one) => ['x', 'y', 'width', 'height'].map((name) => Number(one.getAttribute(name))))"
        return self.page.locator(selector).evaluate_all(script)

    def texts(self, selector):
        """Returns the text of each element."""
        return self.page.locator(selector).evaluate_all("all => all.map((one) => one.textContent)")


@pytest.fixture(scope="package")
def shared(browser):
    """One page for the folder: to open it costs more than most tests."""
    with opened(browser) as seen:
        seen.page.route("http://page.test/**", serve)
        seen.page.goto("http://page.test/")
        yield seen


@pytest.fixture
def sheet(shared):
    """An empty, wide sheet that complains of nothing, and asks for nothing of others."""
    shared.asked.clear()
    shared.said.clear()
    shared.page.set_viewport_size({"width": 1_000, "height": 800})
    shared.page.emulate_media(forced_colors="none")
    shared.page.evaluate("document.body.replaceChildren(), scrollTo(0, 0)")
    yield Sheet(shared)
    assert shared.said == []
    assert {url.split("/")[2] for url in shared.asked} <= {"page.test", ""}


def serve(route):
    """Serves the modules and an empty page."""
    name = route.request.url.rpartition("/")[2]
    kind = {"js": "text/javascript", "css": "text/css"}.get(name.rpartition(".")[2], "text/html")
    body = (DRAW / name).read_text("utf-8") if name else SHELL
    route.fulfill(body=body, content_type=kind, headers={"Content-Security-Policy": POLICY})
