"""The waterfall in a real browser: what is drawn is what was recorded, whatever was."""

from __future__ import annotations

import pytest
from support.browser import NEEDS_CHROMIUM
from test_report import EVIL

pytestmark = NEEDS_CHROMIUM
T0 = 1_796_040_000_000_000
HOSTILE = EVIL + "w" * 2_000


def span(name, start, length, parent=None, status="ok", **extras):
    """A span as the column has it; its id is its name."""
    return {
        "id": name, "parent": parent, "name": name, "offset_ms": start, "duration_ms": length, "status": status,
        "extras": extras,
    }  # fmt: skip


def trace(*spans, result="ok", lasted=1_000.0, dropped=0):
    """A trace as the page gets it."""
    return {
        "trace_id": "01T", "capability": "llm.chat", "result": result, "started_us": T0, "duration_ms": lasted,
        "spans": list(spans), "truncated_spans": dropped,
    }  # fmt: skip


def record(seq, ms, level="info", span_id=None):
    """A log record of the trace."""
    return {"seq": seq, "ts_us": T0 + ms * 1_000, "level": level, "logger": "app", "msg": "said", "span_id": span_id}


TREE = trace(
    span("authorize", 0, 0.4), span("handle", 100, 900), span("connect", 110, 40, "handle"),
    span("generate", 150, 850, "handle", "timeout"), span("first", 200.5, 0, "generate"), result="timeout",
)  # fmt: skip


def rows(sheet):
    """The rows as (level, name, what is at the right)."""
    script = """all => all.map((row) => [Number(row.getAttribute("aria-level")), row.querySelector("bdi").textContent,
        row.querySelector(".draw-took").textContent])"""
    return [tuple(row) for row in sheet.page.locator("[role=treeitem]").evaluate_all(script)]


def test_bars_are_the_spans(sheet):
    """Each bar begins and ends where its span did, on the scale of the trace, and is at least 2 px wide."""
    sheet.draw("waterfall", "waterfall", {"trace": TREE})
    boxes = sheet.boxes(".draw-row .bar")
    track = boxes[0][2]

    assert rows(sheet) == [
        (1, "llm.chat", "1.0 s timeout"),
        (2, "authorize", "0.40 ms"),
        (2, "handle", "900 ms"),
        (3, "connect", "40 ms"),
        (3, "generate", "850 ms timeout"),
        (4, "first", "0 ms"),
    ]
    drawn = {name: (x, width) for (_, name, _), (x, _, width, _) in zip(rows(sheet), boxes, strict=True)}
    assert drawn["handle"] == pytest.approx((0.1 * track, 0.9 * track), abs=0.02)
    assert drawn["connect"] == pytest.approx((0.11 * track, 0.04 * track), abs=0.02)
    assert drawn["authorize"] == (0, 2)
    assert drawn["first"] == pytest.approx((0.2005 * track, 2), abs=0.02)
    assert sheet.texts(".draw-head .draw-name") == ["5 spans"]


def test_drawing_follows_the_width(sheet):
    """Narrow, the bars are below the names and as wide as the sheet; nothing scrolls sideways."""
    sheet.draw("waterfall", "waterfall", {"trace": TREE})
    wide = sheet.boxes(".draw-row .bar")[2]
    sheet.page.set_viewport_size({"width": 360, "height": 800})
    sheet.page.locator(".draw.narrow").wait_for()
    whole, _, narrow = sheet.boxes(".draw-row .bar")[:3]

    assert whole[2] > 300
    assert narrow[2] == pytest.approx(0.9 * whole[2], abs=0.02)
    assert narrow[2] < wide[2]
    assert sheet.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_parent_that_is_not_recorded(sheet):
    """Spans whose parent is missing, or that are their own ancestors, are below a row that says so: none vanishes."""
    circle = [span("a", 1, 1, "b"), span("b", 2, 1, "a"), span("c", 3, 1, "c")]
    lost = [span("child", 6, 1, "gone"), span("grandchild", 7, 1, "child"), span("twin", 8, 1, "gone")]
    sheet.draw("waterfall", "waterfall", {"trace": trace(*circle, *lost, span("kept", 5, 1))})
    found = [(level, name) for level, name, _ in rows(sheet)]

    assert found == [
        (1, "llm.chat"), (2, "kept"), (2, "parent not recorded"), (3, "child"), (4, "grandchild"), (3, "twin"),
        (2, "parent not recorded"), (3, "a"), (4, "b"), (2, "parent not recorded"), (3, "c"),
    ]  # fmt: skip


def test_open_span_of_a_dead_run_has_no_end_and_does_not_grow(sheet):
    """It says so, and drawn a minute later it is as long as before."""
    dead = {"trace": trace(span("generate", 250, 750, None, "open"), result="interrupted"), "run": {"is_alive": False}}
    sheet.draw("waterfall", "waterfall", dead)
    before = sheet.boxes(".bar")
    sheet.page.evaluate("Date.now = (was => () => was() + 60_000)(Date.now.bind(Date))")
    sheet.draw("waterfall", "waterfall", dead)

    assert sheet.boxes(".bar") == before
    assert rows(sheet)[1] == (2, "generate", "≥ 750 ms, end unknown")
    living = trace(span("generate", 250, 750, None, "open"))
    sheet.draw("waterfall", "waterfall", {"trace": living, "run": {"is_alive": True}})
    assert rows(sheet)[1] == (2, "generate", "≥ 750 ms, still open")


def test_clock_that_ran_backwards_stays_in_the_picture(sheet):
    """A span before its trace, or far after it, is drawn within the track; its words have the numbers as stored."""
    sheet.draw("waterfall", "waterfall", {"trace": trace(span("early", -500, 200), span("late", 900, 400))})
    whole, early, late = sheet.boxes(".bar")
    track = whole[2] / 1_000 * 1_300

    assert early[:3:2] == [0, 2]
    assert late[0] + late[2] == pytest.approx(track, abs=0.1)
    assert "begins at -500 ms" in sheet.page.locator("[data-span=early]").get_attribute("aria-label")


def test_thousands_of_spans_are_drawn_where_they_are_seen(sheet):
    """At every place of the scrolling a few dozen rows exist, among them the right ones; the heading has the count."""
    spans = [span(f"s{n}", n, 1, f"s{n - 1}" if n % 10 else None) for n in range(5_000)]
    sheet.draw("waterfall", "waterfall", {"trace": trace(*spans, lasted=5_000.0, dropped=2_412)})
    scroller = sheet.page.locator(".draw-scroller")
    assert sheet.texts(".draw-head .draw-name") == ["5,000 of 7,412 spans"]
    for place in (0, 30_000, 60_000, 10**6):
        scroller.evaluate("(one, top) => one.scrollTo(0, top)", place)
        first = min(place // 24, 5_001 - 23)
        sheet.page.locator(f"[data-index='{first + 10}']").wait_for()

        assert sheet.page.locator(".draw-row").count() < 60
        indexes = sheet.page.locator(".draw-row").evaluate_all("all => all.map((row) => Number(row.dataset.index))")
        assert indexes == sorted(indexes)
    assert sheet.page.locator("[data-span=s4999]").get_attribute("aria-setsize") == "1"
    assert sheet.page.locator("[data-span=s4999]").get_attribute("aria-level") == "11"


def test_chain_of_thousands_needs_no_stack(sheet):
    """Twenty thousand spans, each the child of the last."""
    spans = [span(f"s{n}", n, 1, f"s{n - 1}" if n else None) for n in range(20_000)]
    sheet.draw("waterfall", "waterfall", {"trace": trace(*spans, lasted=20_000.0)})

    assert sheet.texts(".draw-head .draw-name") == ["20,000 spans"]


def test_rows_are_a_tree_for_the_keyboard(sheet):
    """One stop of the tab key; arrows, Home and End move, also to rows that were not drawn; Enter chooses."""
    spans = [span("top", 0, 900), *(span(f"s{n}", n, 1, "top") for n in range(500))]
    sheet.draw("waterfall", "waterfall", {"trace": trace(*spans)})
    press = sheet.page.keyboard.press
    focused = "document.activeElement.dataset.span ?? document.activeElement.dataset.index"
    sheet.page.keyboard.press("Tab")
    went = []
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowLeft", "End", "ArrowUp", "Home", "ArrowUp"):
        press(key)
        went.append(sheet.page.evaluate(focused))
    assert went == ["top", "s0", "s1", "top", "s499", "s498", "0", "0"]

    sheet.page.evaluate("told.length = 0")
    press("ArrowDown")
    press("Enter")
    assert sheet.page.evaluate("told") == [["span", "top", False], ["span", "top", True]]
    assert sheet.page.locator("[tabindex='0']").count() == 1
    label = sheet.page.locator("[data-span=top]").get_attribute("aria-label")
    assert label == "top, begins at 0 ms, 900 ms, ok"


def test_usual_durations_are_marks_in_the_scale(sheet):
    """At their places from the start of trace and span; none of fewer than 20 calls; one beyond the scale is named."""
    usual = {"count": 40, "p50_ms": 250, "p95_ms": 5_000, "spans": {
        "handle": {"count": 20, "p50_ms": 300, "p95_ms": 600}, "connect": {"count": 19, "p50_ms": 1, "p95_ms": 2},
    }}  # fmt: skip
    sheet.draw("waterfall", "waterfall", {"trace": TREE, "usual": usual})
    track = sheet.boxes(".bar")[0][2]
    marks = sheet.page.locator(".draw-row line.usual").evaluate_all(
        "all => all.map((one) => [one.closest('.draw-row').dataset.span ?? 'trace', Number(one.getAttribute('x1'))])"
    )
    assert [name for name, _ in marks] == ["trace", "handle", "handle"]
    assert [x for _, x in marks] == pytest.approx([0.25 * track, 0.4 * track, 0.7 * track], abs=0.02)
    assert {text[:5] for text in sheet.texts("text.usual")} == {"p50us", "p95 →"}
    assert "usual p50 250 ms, usual p95 5.0 s" in sheet.page.locator("[data-index='0']").get_attribute("aria-label")

    sheet.draw("waterfall", "waterfall", {"trace": TREE, "usual": {**usual, "p95_ms": 2_000}})
    assert sheet.boxes(".bar")[0][2] == pytest.approx(track / 2, abs=0.02)


@pytest.mark.parametrize("p50_ms", [250, 990, 4_000])
def test_labels_of_usual_durations_are_apart(sheet, p50_ms):
    """Wherever they are: within the scale, at its end, or both beyond it."""
    usual = {"count": 40, "p50_ms": p50_ms, "p95_ms": 5_000, "spans": {}}
    sheet.draw("waterfall", "waterfall", {"trace": TREE, "usual": usual})
    spans = "all => all.map((one) => one.getBoundingClientRect()).map(({ left, right }) => [left, right]).sort()"
    track = sheet.page.locator(".draw-head .draw-track").bounding_box()
    (_, first_end), (second, end) = sheet.page.locator("text.usual").evaluate_all(spans)

    assert first_end < second
    assert end <= track["x"] + track["width"] + 1


def test_log_records_are_signs_at_their_moments(sheet):
    """Each kind has its shape; records at the same pixels are one sign, of the worst; lighting goes both ways."""
    logs = [record(1, 160, "warning", "generate"), record(2, 500), record(3, 501, "error", "handle"), record(4, 9_000)]
    sheet.draw("waterfall", "waterfall", {"trace": TREE, "logs": logs})
    track = sheet.boxes(".bar")[0][2]
    signs = sheet.page.locator(".sign")
    places = signs.evaluate_all("all => all.map((one) => one.transform.baseVal[0].matrix.e)")

    assert places == pytest.approx([0.16 * track, 0.5 * track, track - 6], abs=0.02)
    assert len(set(signs.evaluate_all("all => all.map((one) => one.getAttribute('d'))"))) == 3
    assert sheet.texts(".sign title")[1] == "+500 ms error: said, and 1 more"
    assert sheet.label() == "4 log records: 1 warning, 1 error"

    signs.nth(0).hover()
    assert sheet.page.locator(".draw-row.lit").get_attribute("data-span") == "generate"
    sheet.page.locator("[data-span=handle]").hover()
    assert signs.evaluate_all("all => all.map((one) => one.matches('.lit'))") == [False, True, False]
    assert sheet.page.evaluate("told.at(-1)") == ["span", "handle", False]
    sheet.page.mouse.move(500, 790)
    assert sheet.page.locator(".lit").count() == 0
    sheet.page.evaluate("drawn.highlight(2)")
    assert signs.evaluate_all("all => all.map((one) => one.matches('.lit'))") == [False, True, False]
    sheet.page.evaluate("drawn.highlight('connect')")
    assert sheet.page.locator(".draw-row.lit").get_attribute("data-span") == "connect"


def test_hostile_records_are_text(sheet):
    """Markup, control and reordering characters, long words and values of the wrong type are shown, and do nothing."""
    spans = [
        span(HOSTILE, 0, 10, None, HOSTILE, **{HOSTILE[:9]: HOSTILE}), span("\u05d0\u05d1", 1, 1),
        {"id": {}, "parent": [], "name": None, "offset_ms": "x", "duration_ms": None, "status": 5}, None, 7, {},
    ]  # fmt: skip
    logs = [{**record(1, 1, HOSTILE, HOSTILE), "msg": HOSTILE}, {}]
    hostile = {**trace(*spans, lasted=None), "capability": HOSTILE, "result": HOSTILE, "truncated_spans": HOSTILE}
    sheet.draw("waterfall", "waterfall", {"trace": hostile, "logs": logs, "usual": {"count": 99, "spans": HOSTILE}})

    assert sheet.page.locator("img, script").count() == 0
    assert rows(sheet)[0][1].startswith("</script><script>alert(1)</script>\\u001b[31m\\u202e\\ud800\\u0000\"'&<img")
    assert len(rows(sheet)) == 6
    assert sheet.page.evaluate("document.documentElement.scrollWidth") <= 1_000
    assert max(map(len, sheet.texts("bdi, .draw-took, title"))) < 400


def test_trace_without_spans_is_a_row(sheet):
    """Its own."""
    sheet.draw("waterfall", "waterfall", {"trace": trace()})

    assert rows(sheet) == [(1, "llm.chat", "1.0 s")]
    assert sheet.texts(".draw-head .draw-name") == ["0 spans"]


def test_forced_colours_leave_words_and_outlines(sheet):
    """Bars have the colour of text, failures are outlines, and each has its sign and its word."""
    sheet.page.emulate_media(forced_colors="active")
    sheet.draw("waterfall", "waterfall", {"trace": TREE})
    ink = sheet.page.evaluate("getComputedStyle(document.body).color")
    fills = sheet.page.locator(".bar").evaluate_all("all => all.map((one) => getComputedStyle(one).fill)")
    strokes = sheet.page.locator(".bar").evaluate_all("all => all.map((one) => getComputedStyle(one).stroke)")

    assert [fill == ink for fill in fills] == [False, True, True, True, False, True]
    assert [stroke == ink for stroke in strokes] == [True, False, False, False, True, False]
    assert sheet.texts(".draw-row.bad .draw-glyph") == ["✕", "✕"]
