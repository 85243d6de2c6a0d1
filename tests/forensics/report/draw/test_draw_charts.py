"""The charts and the timeline in a real browser: heights and places are the numbers, and what is not known shows."""

from __future__ import annotations

import re

import pytest
from support.browser import NEEDS_CHROMIUM
from test_report import EVIL

pytestmark = NEEDS_CHROMIUM
T0 = 1_796_040_000_000_000  # 2026-11-30T12:00:00Z
MINUTE = 60_000_000


def point(minute, count, failed=0, p95=None):
    """What happened in a minute."""
    p50 = None if p95 is None else p95 / 2
    return {
        "ts_us": T0 + minute * MINUTE,
        "count": count,
        "failed": failed,
        "p50_ms": p50,
        "p95_ms": p95,
        "max_ms": 9_000,
    }


def run(start, end=None, version="0.3.0", role="node", is_alive=False):
    """A run, by the minutes of its start and end."""
    return {
        "started_us": T0 + start * MINUTE, "ended_us": None if end is None else T0 + end * MINUTE, "version": version,
        "role": role, "is_alive": is_alive, "program": "hearthnet",
    }  # fmt: skip


LIVING = run(-5, None, is_alive=True)


def series(*points, runs=(LIVING,), **more):
    """The data of a chart."""
    return {
        "points": points, "runs": runs, "fromUs": T0, "toUs": T0 + 10 * MINUTE, "stepS": 60, "zone": "UTC", **more,
    }  # fmt: skip


def ranges(sheet):
    """The ranges without calls as (look, words)."""
    script = "all => all.map((one) => [one.classList[1], one.querySelector('title').textContent])"
    return [tuple(found) for found in sheet.page.locator("g.range").evaluate_all(script)]


def test_bars_are_the_calls_and_failures_have_their_own_baseline(sheet):
    """Both scales begin at 0; each bar is over its minute."""
    sheet.draw("charts", "bars", series(point(0, 40), point(4, 10, 3), point(9, 20, 1)))
    calls, failed = sheet.boxes(".calls")[:3], sheet.boxes("rect.bad")[:2]
    minute = calls[1][0] - calls[0][0]

    assert [height for *_, height in calls] == pytest.approx([110, 27.5, 55], abs=0.02)
    assert {round(y + height, 2) for _, y, _, height in calls} == {128}
    assert [height for *_, height in failed] == pytest.approx([26, 26 / 3], abs=0.02)
    assert {round(y + height, 2) for _, y, _, height in failed} == {164}
    assert failed[0][0] == calls[1][0]
    assert calls[2][0] - calls[0][0] == pytest.approx(minute / 4 * 9, abs=0.02)
    assert sheet.label().startswith(
        "Calls from 2026-11-30 12:00:00.000+00:00 to 2026-11-30 12:10:00.000+00:00: 70 calls, 4 failed; "
        "most at 12:00:00, 40 in 60.0 s"
    )


def test_no_calls_no_data_and_not_running_look_different(sheet):
    """Three looks, each with its words; a step with calls is never one of them."""
    runs = [run(2, 5), run(7, None, "0.3.1", is_alive=True)]
    sheet.draw("charts", "bars", series(point(4, 40), runs=runs, ringFromUs=T0 + 2 * MINUTE))

    assert ranges(sheet) == [
        ("none", "no data: 12:00:00 to 12:02:00"),
        ("zero", "no calls: 12:02:00 to 12:04:00"),
        ("zero", "no calls: 12:05:00 to 12:06:00"),
        ("off", "not running: 12:06:00 to 12:07:00"),
        ("zero", "no calls: 12:07:00 to 12:10:00"),
    ]
    assert sheet.page.locator(".stripes").count() == sheet.page.locator("g.none .stripes").count() == 1
    assert sheet.page.locator("g.zero .flat").count() == 3
    assert "no data for 2.0 min; not running for 60.0 s" in sheet.label()
    assert sheet.texts(".draw-legend > span")[2:4] == ["no data", "not running"]


def test_dead_run_without_an_end_does_not_run_on(sheet):
    """After the last sign of life nothing ran, as far as is known."""
    dead = {**run(0), "last_seen_us": T0 + 3 * MINUTE - 1}
    sheet.draw("charts", "bars", series(point(0, 30), runs=[dead]))

    assert [state for state, _ in ranges(sheet)] == ["zero", "off"]


def test_line_of_p95_needs_twenty_calls_and_joins_no_gap(sheet):
    """Only steps of 20 calls and more are on it, neighbours alone are joined, and one alone is a dot."""
    points = [
        point(0, 20, p95=500),
        point(1, 30, p95=1_000),
        point(2, 19, p95=9_999),
        point(4, 20, p95=250),
        point(6, 5),
    ]
    sheet.draw("charts", "bars", series(*points))
    path = sheet.page.locator("path.p95").get_attribute("d")
    heights = [float(height) for height in re.findall(r" ([\d.]+)", path)]

    assert path.count("M") == 2
    assert path.count("L") == 1
    assert heights == pytest.approx([73, 18, 100.5], abs=0.06)
    assert sheet.page.locator("circle.p95").count() == 1
    assert sheet.texts("text.p95") == ["0 ms", "500 ms", "1.0 s"]
    words = sheet.texts("g.step > title")
    assert words[0] == "12:00:00: 20 calls, 0 failed, p50 250 ms, p95 500 ms, slowest 9.0 s"
    assert words[2] == "12:02:00: 19 calls, 0 failed, slowest 9.0 s"


def test_few_calls_say_why_there_is_no_p95(sheet):
    """In the line of words below."""
    sheet.draw("charts", "bars", series(point(0, 3), point(1, 19)))

    assert sheet.page.locator("path.p95").count() == 0
    assert "no p95: under 20 calls a step" in sheet.texts(".draw-legend > span")


def test_restarts_and_losses_are_marks(sheet):
    """Starts of the node with their version, those of other programs only where there is no node."""
    runs = [run(-9, 3), run(4, None, "0.3.1", is_alive=True), run(6, 7, "9", role="library")]
    gaps = [{"ts_us": T0 + 8 * MINUTE, "count": 12, "reason": "overflow"}]
    sheet.draw("charts", "bars", series(point(0, 3), runs=runs, gaps=gaps))

    assert sheet.texts("line.run title") == ["start, 0.3.1: 2026-11-30 12:04:00.000+00:00"]
    assert sheet.texts(".sign title") == ["12 records lost: overflow"]
    sheet.draw("charts", "bars", series(point(0, 3), runs=runs[2:]))
    assert sheet.texts("line.run title") == ["start, 9: 2026-11-30 12:06:00.000+00:00"]


def test_series_of_nothing(sheet):
    """An empty range is drawn as such."""
    sheet.draw("charts", "bars", series(runs=[]))

    assert [state for state, _ in ranges(sheet)] == ["off"]
    assert "0 calls, 0 failed; not running for 10.0 min" in sheet.label()


def test_small_line_begins_at_zero_and_has_gaps(sheet):
    """Values at their heights and moments; null joins nothing."""
    sheet.draw("charts", "spark", [50, 100, None, 0, None], {"label": "memory", "times": [0, 1, 2, 4, 8]})
    width = sheet.boxes("svg")[0][2]
    path = sheet.page.locator("path.line").get_attribute("d")

    assert path == f"M2.0 19.0L{2 + (width - 4) / 8:.1f} 4.0M{2 + (width - 4) / 2:.1f} 34.0"
    assert sheet.page.locator("circle.line").count() == 1
    assert sheet.label() == "memory: from 50 to 0, most 100"
    sheet.draw("charts", "spark", [None, None])
    assert sheet.label() == "no data"


def test_range_of_latency(sheet):
    """From p50 to p95 on a scale that ends at the maximum; of few calls only the words."""
    sheet.draw("charts", "range", {"p50": 100, "p95": 400, "p99": 900, "max": 1_000}, {"label": "llm.chat"})
    x, _, width, _ = sheet.boxes("rect.calls")[0]

    assert (x, width) == pytest.approx((1 + 99.8 * (x - 1) / 99.8, 3 * (x - 1)), abs=0.05)
    assert sheet.label() == "llm.chat: p50 100 ms, p95 400 ms, p99 900 ms, max 1.0 s"
    sheet.draw("charts", "range", {"p50": None, "p95": None, "p99": None, "max": 1_000}, {})
    assert sheet.page.locator("rect").count() == 0
    assert sheet.label() == "max 1.0 s, too few calls for p95"


def test_share_of_a_whole(sheet):
    """Parts in proportion, the smallest still to be seen, each named with its number."""
    parts = [{"label": "database", "value": 50_000_000}, {"label": "logs", "value": 1}, {"label": "WAL", "value": 0}]
    sheet.draw("charts", "share", parts, {"total": 100_000_000})
    whole, database, logs = sheet.boxes("svg[role=img] rect")

    assert database[2] == pytest.approx((whole[2] - 6) / 2, abs=0.02)
    assert logs[2] == 2
    assert sheet.label() == "database 50.0 MB, logs 1 B, WAL 0 B, of 100.0 MB"
    assert sheet.texts(".draw-legend > span") == ["database 50.0 MB", "logs 1 B", "WAL 0 B"]


def entry(second, kind="trace", status="ok", lasted=None, text=""):
    """An entry of the timeline."""
    return {
        "ts_us": T0 + second * 1_000_000,
        "kind": kind,
        "status": status,
        "name": "llm.chat",
        "text": text,
        "duration_ms": lasted,
    }


def test_timeline_is_what_happened(sheet):
    """Bars where the traces were, in lanes so that none hides another; what was in flight ends with its run."""
    traces = [entry(0, lasted=50_000), entry(10, status="timeout", lasted=20_000), entry(0, "start")]
    entries = [*traces, entry(60, "log", "error", text="no"), entry(70, "gap", "overflow", text="7")]
    flight = {"capability": "rag.query", "span": "embed", "age_ms": 20_000, "started_us": T0 + 70 * 1_000_000}
    given = {"entries": entries, "inFlight": [flight], "fromUs": T0, "toUs": T0 + 100_000_000, "zone": "UTC"}
    sheet.draw("timeline", "timeline", {**given, "runs": [{**run(1), "ended_us": None}]})
    width = sheet.boxes("svg")[0][2] - 12
    flying, first, second = sheet.boxes("rect.bar")

    assert first[0] == 6
    assert first[2] == pytest.approx(width / 2, abs=0.02)
    assert second[:3:2] == pytest.approx([6 + width / 10, width / 5], abs=0.02)
    assert second[1] > first[1]
    assert flying[:3:2] == pytest.approx([6 + width * 0.7, width / 5], abs=0.02)
    assert sheet.texts(".bar.open title") == ["rag.query in embed, at least 20.0 s, end unknown"]
    assert sheet.texts(".sign title") == ["error llm.chat: no", "lost: 7"]
    assert sheet.texts("line.run title") == ["start of hearthnet 0.3.0"]
    assert sheet.label().endswith(
        "2 traces, 1 failed; 1 warning or error; 1 gap; 1 in flight: rag.query in embed, at least 20.0 s"
    )
    sheet.draw("timeline", "timeline", {**given, "inFlight": [{**flight, "is_alive": True}]})
    assert sheet.boxes("rect.bar")[0][2] == pytest.approx(width * 0.3, abs=0.02)


def test_timeline_of_thousands_draws_the_newest(sheet):
    """It says how many there are."""
    entries = [entry(number, lasted=1) for number in range(3_412)]
    sheet.draw(
        "timeline", "timeline", {"entries": entries, "fromUs": T0, "toUs": T0 + 3_412 * 1_000_000, "zone": "UTC"}
    )

    assert sheet.page.locator(".bar").count() == 2_000
    assert "newest 2,000 of 3,412 entries" in sheet.texts(".draw-legend > span")


def test_hostile_names_are_text(sheet):
    """In every chart; nothing is wider than the sheet."""
    evil_run = {**run(1), "version": EVIL, "program": EVIL}
    gap = {"ts_us": T0 + MINUTE, "count": "x", "reason": EVIL}
    odd = {"ts_us": T0, "count": 5, "failed": "x", "p95_ms": "y", "max_ms": None}
    drawings = [
        ("charts", "bars", series(odd, runs=[evil_run], gaps=[gap]), None),
        ("charts", "share", [{"label": EVIL, "value": "x"}, {"label": EVIL, "value": 5}], None),
        ("charts", "spark", ["x", {}], {"label": EVIL}),
        ("timeline", "timeline", {
            "entries": [{**entry(1), "name": EVIL, "status": EVIL}, entry(2, "log", EVIL, text=EVIL)], "zone": "UTC",
            "inFlight": [{"capability": EVIL, "span": EVIL}], "fromUs": T0, "toUs": T0 + MINUTE, "runs": [evil_run],
        }, None),
    ]  # fmt: skip
    for module, name, data, more in drawings:
        sheet.draw(module, name, data, more)

        assert sheet.page.locator("img, script").count() == 0
        assert sheet.page.evaluate("document.documentElement.scrollWidth") <= 1_000
        assert "\u202e" not in "".join(sheet.texts(".draw"))
