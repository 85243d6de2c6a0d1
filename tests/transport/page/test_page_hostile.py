"""Thousands of traces and log records full of hostile text, on a page without a node: nothing runs, nothing breaks.

`scripts/soak scroll` looks at ten thousand of them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import forkserver
from support.browser import NARROW, NEEDS_CHROMIUM, Tab, sideways
from support.waiting import wait_until

pytestmark = NEEDS_CHROMIUM
PROGRAM = Path(__file__).with_name("recording.py")
COUNT = 2_000
KINDS = 10  # of texts in the program
MOST_ROWS = 100  # drawn of a list, however long: a screen of rows and some beyond each edge


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The link to a page that `hearthnet page` itself serves."""
    home = tmp_path_factory.mktemp("hostile")
    environment = {**os.environ, "HOME": str(home)}
    done = forkserver.run([sys.executable, str(PROGRAM), "hostile", str(COUNT)], env=environment)
    assert done.returncode == 0, done.stderr
    out = home / "page.out"
    with out.open("wb") as stream:
        page = forkserver.spawn(
            [sys.executable, "-m", "hearthnet", "page", "--port", "0"], env=environment, stdout=stream, stderr=stream
        )
    wait_until(lambda: "#token=" in out.read_text(), out.read_text)
    yield next(word for word in out.read_text().split() if "#token=" in word)
    page.send_signal(signal.SIGINT)
    page.wait(60)


@pytest.fixture(scope="module")
def hostile_tab(open_tab, served):
    """The tab on it."""
    tab = open_tab(served.partition("#")[0])
    tab.page.goto(served)
    tab.page.wait_for_selector(".tile")
    return tab


def harmless(tab: Tab) -> None:
    """Nothing of a record ran, or became an element."""
    assert tab.page.evaluate("window.ran") is None
    assert tab.page.locator("img, iframe, object, embed, main script, [onerror], [onload]").count() == 0
    tab.check()


@pytest.mark.parametrize("fragment", ["#now", "#traces", "#logs", "#runs", "#traces?order=slowest", "#doctor"])
def test_view_of_hostile_records(hostile_tab, fragment):
    """It is text, and no wider than the screen."""
    hostile_tab.go(fragment)
    for size in (NARROW, {"width": 1400, "height": 900}):
        hostile_tab.page.set_viewport_size(size)
        assert sideways(hostile_tab) == 0
    harmless(hostile_tab)


@pytest.mark.parametrize("fragment", ["#traces", "#logs"])
def test_long_list_draws_what_is_in_view(hostile_tab, fragment):
    """Scrolled to its end page by page, it has all rows in memory and a screen of them in the document."""
    hostile_tab.go(fragment)
    body = hostile_tab.page.locator("main .list")
    drawn, seen = [], set()

    def reached(count: int) -> bool:
        body.evaluate("box => { box.scrollTop = box.scrollHeight; }")
        seqs = hostile_tab.seqs()
        drawn.append(len(seqs))
        seen.update(seqs)
        return int(body.get_attribute("aria-rowcount")) > count

    for count in (100, 200, 300, 400, 500):
        wait_until(lambda count=count: reached(count), "no further page")

    assert max(drawn) <= MOST_ROWS
    harmless(hostile_tab)


def each_opened(tab: Tab) -> Iterator[int]:
    """Opens a row of each kind, from the top of the list; yields its number."""
    tab.page.locator("main .list").evaluate("box => { box.scrollTop = 0; }")
    tab.settle()
    for seq in tab.seqs()[:KINDS]:
        tab.page.locator(f"main .row[data-seq='{seq}']").click()
        tab.page.wait_for_selector(f"main .row.opened[data-seq='{seq}']")
        tab.settle()
        yield seq
        assert sideways(tab) == 0, seq
        harmless(tab)


def test_opened_trace_is_text(hostile_tab):
    """Each kind of text, as the name of a capability and a span, and as a field."""
    hostile_tab.go("#traces")
    for seq in each_opened(hostile_tab):
        spans = hostile_tab.page.locator(".draw-row[data-span]")
        if spans.count():
            spans.first.click()
            assert "note" in hostile_tab.text(".span-detail"), seq
        else:  # of the longest text, with an error
            assert "1 span more did not fit into the record" in hostile_tab.text(".pane"), seq


def test_opened_record_is_text(hostile_tab):
    """Each kind of text, as a message and an error."""
    hostile_tab.go("#logs")
    for seq in each_opened(hostile_tab):
        assert hostile_tab.text(".pane .msg"), seq


def test_search_for_hostile_text_finds_it(hostile_tab):
    """A click on the odd name of a capability finds its traces alone."""
    hostile_tab.go("#now")
    hostile_tab.page.locator(".capabilities tbody a").first.click()
    hostile_tab.page.wait_for_selector(".chip")
    hostile_tab.settle()
    names = set(hostile_tab.page.locator("main .row[data-seq] .c-name").all_text_contents())

    assert len(names) == 1
    harmless(hostile_tab)
