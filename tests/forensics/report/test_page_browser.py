"""The page in a real browser without network: what it asks for, says and draws, and its tables without scripts."""

from __future__ import annotations

import json
import sys

import pytest
from support import forkserver
from support.browser import NEEDS_CHROMIUM, opened
from test_report import hostile

from hearthnet.forensics.gather import gather
from hearthnet.forensics.report.document import document
from hearthnet.forensics.report.page import page
from hearthnet.forensics.report.page_parts import waterfalls_of
from hearthnet.forensics.verdict import judge

pytestmark = NEEDS_CHROMIUM
# Fast calls, slow ones and failing ones with records, many spans, and a kill in the middle of a call.
BUSY = """
import os, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace

log = get_logger("app.work")
base = Path(sys.argv[1])
with telemetry.open(ObservabilityConfig(data_dir=base / "data", log_dir=base / "log", max_disk_mb=64)) as opened:
    for number in range(30):
        with trace.new_trace("llm.chat") as made:
            with trace.span("handle"), trace.span("generate", n=number):
                log.warning("again", extra={"attempt": number})
            if number % 10 == 0:
                made.fail("timeout", "no answer")
    with trace.new_trace("batch.<b>import</b>"):
        with trace.span("rows"):
            for number in range(50):
                with trace.span(f"row {number}"):
                    pass
    opened.flush()
    trace.new_trace("rag.query")
    trace.span("embed").__enter__()
    log.warning("last words")
    os.kill(os.getpid(), 9)
"""

WIDTHS = "rows => rows.map((row) => [row.dataset.span, Number(row.querySelector('.bar').getAttribute('width'))])"


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """The document of a program that was killed."""
    base = tmp_path_factory.mktemp("busy")
    assert forkserver.run([sys.executable, "-c", BUSY, base]).returncode == -9
    case = gather(base / "data")
    return document(case, judge(case))


def written(found, tmp_path):
    """The address of a document's page."""
    path = tmp_path / "page.html"
    path.write_text(page(found), "utf-8")
    return path.as_uri()


def test_browser_tells_of_a_page_that_asks_and_complains(browser, tmp_path):
    """Counterpart that proves the checks: a page with a remote image and a failing script."""
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://evil.example/x.png"><script>throw new Error("boo")</script>')
    with opened(browser) as seen:
        seen.page.goto(path.as_uri())

        assert "http://evil.example/x.png" in seen.asked
        assert any("boo" in line for line in seen.said)


@pytest.mark.parametrize("kind", ["busy", "hostile"])
def test_page_asks_for_nothing(browser, busy, tmp_path, kind):
    """No request and no error; our script ran, and no other; nothing scrolls sideways on a narrow screen."""
    found = busy if kind == "busy" else document(hostile(), judge(hostile()))
    where = written(found, tmp_path)
    with opened(browser, viewport={"width": 360, "height": 700}) as seen:
        seen.page.goto(where)
        seen.page.locator("#waterfalls svg").first.wait_for()

        assert seen.asked == [where, "data:,"][: len(seen.asked)]
        assert seen.said == []
        assert seen.page.locator("#filter").is_visible()
        assert seen.page.locator("img, b:not(.draw-glyph, .card > b, figcaption b)").count() == 0
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_policy_holds_what_the_escapes_would_miss(browser, busy, tmp_path):
    """A script of others does not run even within the page, and no text becomes markup."""
    path = tmp_path / "page.html"
    path.write_text(page(busy).replace("<main>", "<main><script>window.evil = 1</script><p onclick='evil = 1'>x</p>"))
    with opened(browser) as seen:
        seen.page.goto(path.as_uri())
        seen.page.locator("p[onclick]").click()

        assert seen.page.evaluate("window.evil === undefined")
        markup = "try { document.body.innerHTML = '<i>'; 'set' } catch (error) { error.name }"
        assert seen.page.evaluate(markup) == "TypeError"
        assert any("Content Security Policy" in line for line in seen.said)


def test_drawn_is_what_was_recorded(browser, busy, tmp_path):
    """Every span of the traces is a bar as long as it lasted, 2 px at least; what was in flight is drawn once."""
    with opened(browser, viewport={"width": 1400, "height": 900}) as seen:
        seen.page.goto(written(busy, tmp_path))
        seen.page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        seen.page.locator("details:last-child [role=tree]").wait_for()
        falls = waterfalls_of(busy)

        assert seen.page.locator("details").count() == len(falls) > 3
        for number, trace in enumerate(falls):
            fall = seen.page.locator("details").nth(number)
            drawn = dict(fall.locator("[data-span]").evaluate_all(WIDTHS))
            whole = float(fall.locator(".bar").first.get_attribute("width"))
            lasted = {span["id"]: span["duration_ms"] / trace["duration_ms"] * whole for span in trace["spans"]}
            dropped = trace["extras"].get("truncated", 0)
            assert drawn.keys() == lasted.keys() or (dropped and drawn.keys() < lasted.keys())
            assert drawn == pytest.approx({span: max(2, lasted[span]) for span in drawn}, abs=0.02)
            count = f"{len(lasted)} of {len(lasted) + dropped} spans" if dropped else f"{len(lasted)} spans"
            assert fall.locator(".draw-head .draw-name").inner_text() == count
        calls = sum(minute["traces"] for minute in busy["minutes"])
        assert f"{calls} calls, " in seen.page.locator("#minutes svg[role=img]").get_attribute("aria-label")
        happened = seen.page.locator("#what-happened svg[role=img]").get_attribute("aria-label")
        assert "1 in flight: rag.query in embed" in happened
        assert seen.page.locator("#what-happened rect.bar.open").count() == 1
        assert seen.said == []


def test_filter_keeps_the_rows_with_all_words(browser, busy, tmp_path):
    """Rows without one of them are hidden."""
    with opened(browser) as seen:
        seen.page.goto(written(busy, tmp_path))
        seen.page.locator("#filter").fill("LLM.chat timeout")
        shown = seen.page.locator("#moments tbody tr:not([hidden])")

        assert shown.count() == 3
        assert "timeout" in shown.first.inner_text()
        seen.page.locator("#filter").fill("")
        assert shown.count() == len(busy["timeline"])


def test_page_without_scripts_has_its_tables(browser, busy, tmp_path):
    """It says that the charts need scripts."""
    with opened(browser, java_script_enabled=False) as seen:
        seen.page.goto(written(busy, tmp_path))

        assert "The charts need scripts" in seen.page.locator("noscript p").inner_text()
        assert seen.page.locator("#moments tbody tr").count() == len(busy["timeline"])
        assert not seen.page.locator("#filter").is_visible()


def test_spans_of_a_row_are_told(browser, busy, tmp_path):
    """Pointing at a row shows its fields below the waterfall."""
    with opened(browser, viewport={"width": 1000, "height": 900}) as seen:
        seen.page.goto(written(busy, tmp_path))
        fall = seen.page.locator("details", has_text="llm.chat").last
        fall.locator("summary").click()
        fall.locator("[role=treeitem]", has_text="generate").hover()

        told = fall.locator(".told").inner_text()
        assert json.loads(told.removeprefix("generate: "))["n"] in range(30)
