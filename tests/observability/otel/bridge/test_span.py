"""A span as the API has it: what is kept of it, in which words, and that nothing of it raises."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest
from opentelemetry import trace as api
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from support.open_telemetry import fresh_api, installed, newest, spans_by_name
from support.threads import at_once

from hearthnet.errors import WireError
from hearthnet.observability import otel, trace
from hearthnet.observability.otel.bridge import span as bridge_span
from hearthnet.observability.traces.traceparent import headers_for, parse, root_span_id

__all__ = ["fresh_api", "installed"]  # fixtures

OTHER = SpanContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, is_remote=True)
MS = 1_000_000


class Hostile:
    """Raises whatever is asked of it, as a proxy of nothing does, its class among it."""

    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __str__(self):
        raise RuntimeError("str")

    __eq__ = __hash__ = __iter__ = __bool__ = __len__ = __str__


def test_attributes_are_extras(installed):
    """Every type that the API has; None is no value; a container is a copy of its own."""
    listed = ["a", "b"]
    with trace.new_trace("a.b"), installed.start_as_current_span("work", attributes={"first": 1}) as span:
        span.set_attribute("listed", listed)
        span.set_attributes(
            {"text": "x", "number": 1.5, "yes": True, "none": None, "raw": b"ab", "map": {"k": [1, None]}}
        )
        span.set_attribute("first", 2)
        listed.append("c")
        assert dict(span.attributes)["text"] == "x"

    extras = spans_by_name(newest())["work"]["extras"]
    assert extras == {
        "otel.scope.name": "tests", "first": 2, "listed": ["a", "b"], "text": "x", "number": 1.5, "yes": True,
        "raw": "b'ab'", "map": {"k": [1, None]},
    }  # fmt: skip


def test_attributes_are_bounded_and_clean(installed):
    """Their number in memory, their length, and secrets by name, by form, and by what another attribute says."""
    with installed.start_as_current_span("root") as span:
        span.set_attributes({f"key{number:03}": number for number in range(200)})
        span.set_attribute("key000", "long " * 5_000)
        span.set_attribute("key001", "Authorization: Bearer abcdef0123456789")
        span.set_attribute("key002", [["password", "tiger1234"]])
        span.set_attribute("key003", "it said tiger1234")
        assert len(span.scope.extras["key000"]) < 10_000
        assert len(span.attributes) < 64

    row = newest()
    assert "200" not in row["extras"]
    assert row["extras"]["otel.dropped_attributes_count"] == 200 - len([k for k in row["extras"] if k[:3] == "key"])
    assert row["extras"]["key000"].endswith("[cut]")
    assert "abcdef0123456789" not in json.dumps(row)
    assert "tiger1234" not in json.dumps(row)


class WordlessError(Exception):
    """Has no text."""

    def __str__(self):
        raise RuntimeError("no text")


def test_exception_without_a_text_reaches_the_program(installed):
    """It is the program's own, not one of ours in its place; the span has failed."""
    with pytest.raises(WordlessError), installed.start_as_current_span("root"):
        raise WordlessError

    assert newest()["result"] == "internal_error"
    assert "WordlessError" in newest()["error"]


def test_context_that_is_none(installed):
    """Is no reason to raise: nothing is recorded."""
    span = installed.start_span("x", context=5)
    with installed.start_as_current_span("y", context=object()):
        pass

    assert not span.is_recording()
    assert trace.get_recent() == []


def test_spans_that_are_never_ended_are_bounded(installed):
    """Of a trace that makes them without end, a thousand are kept; it goes on, and ends."""
    with installed.start_as_current_span("root") as root:
        for _ in range(1_100):
            installed.start_span("forgotten")
        assert len(root.trace._spans) <= 1_000
        with installed.start_as_current_span("last"):
            pass

    assert newest()["capability"] == "root"


def test_own_names_are_not_the_programs(installed):
    """An attribute cannot pass for what is noted of the span."""
    with installed.start_as_current_span("root", kind=SpanKind.CLIENT) as span:
        span.set_attributes({"otel.kind": "server", "otel.status_code": "OK", "": 1, 3: 4})
        assert span.kind is SpanKind.CLIENT

    assert newest()["extras"] == {"otel.scope.name": "tests", "otel.kind": "client"}


def statuses():
    """Every sequence of up to three statuses, and what remains of it: OK is final, UNSET is ignored."""
    for length in range(4):
        for said in itertools.product([StatusCode.UNSET, StatusCode.OK, StatusCode.ERROR], repeat=length):
            last = next((code for code in said if code is StatusCode.OK), None)
            yield said, last or (StatusCode.ERROR if StatusCode.ERROR in said else StatusCode.UNSET)


def test_status_follows_the_specification(installed):
    """Of spans and roots alike, said in either way."""
    for said, left in statuses():
        with installed.start_as_current_span("root") as root, installed.start_as_current_span("child") as child:
            for number, code in enumerate(said):
                text = f"no {number}"
                child.set_status(code, text)
                root.set_status(Status(code, text if code is StatusCode.ERROR else None))
        row = newest()
        span = spans_by_name(row)["child"]
        is_error = left is StatusCode.ERROR
        last = f"no {max((n for n, code in enumerate(said) if code is StatusCode.ERROR), default=0)}"
        assert (span["status"], row["result"]) == (("error", "internal_error") if is_error else ("ok", "ok"))
        assert (span["extras"].get("error"), row["error"]) == ((last, last) if is_error else (None, None))
        assert row["extras"].get("otel.status_code") == ("OK" if left is StatusCode.OK else None)


def test_exception_that_leaves_is_recorded(installed):
    """Status, text, and an event with type, message and the place; the trace takes the result that it means."""
    with pytest.raises(WireError), installed.start_as_current_span("root"), installed.start_as_current_span("child"):
        raise WireError("timeout", "too slow")

    row = newest()
    span = spans_by_name(row)["child"]
    (event,) = span["extras"]["otel.events"]
    assert (span["status"], span["extras"]["error"]) == ("error", "WireError: too slow")
    assert (row["result"], row["error"]) == ("timeout", "WireError: too slow")
    assert event["name"] == "exception"
    assert event["attributes"]["exception.type"] == "hearthnet.errors.WireError"
    assert event["attributes"]["exception.message"] == "too slow"
    assert "test_exception_that_leaves" in event["attributes"]["exception.stacktrace"]


def test_exception_is_not_recorded_where_that_is_not_wanted(installed):
    """Both switches of the API, in both forms of a `with` block."""
    silent = {"record_exception": False, "set_status_on_exception": False}
    with pytest.raises(KeyError), installed.start_as_current_span("root", **silent):
        raise KeyError("k")
    assert (newest()["result"], "otel.events" in newest()["extras"]) == ("ok", False)

    with pytest.raises(KeyError), installed.start_span("root", **silent):
        raise KeyError("k")
    assert (newest()["result"], "otel.events" in newest()["extras"]) == ("ok", False)

    with pytest.raises(KeyError), installed.start_span("root"):
        raise KeyError("k")
    assert (newest()["error"], len(newest()["extras"]["otel.events"])) == ("KeyError: 'k'", 1)


async def test_cancelled_span_has_ended_as_cancelled(installed):
    """Which the API takes for no exception: such spans were left as if all was well."""

    async def work():
        with installed.start_as_current_span("root"), installed.start_as_current_span("child"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    row = newest()
    assert (row["result"], spans_by_name(row)["child"]["status"]) == ("cancelled", "cancelled")


def test_handled_cancellation_is_not_the_spans(installed):
    """A span that begins while one is being handled, and ends well."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with installed.start_as_current_span("root"):
            pass

    assert newest()["result"] == "ok"


def test_events_and_links_are_bounded(installed):
    """The last ones are kept and the others counted; times and attributes are with each, and clean."""
    invalid = SpanContext(OTHER.trace_id, 0, is_remote=True)
    with installed.start_as_current_span("root", links=[Link(OTHER, {"why": "batch"}), Link(invalid)]) as span:
        for number in range(20):
            span.add_event(f"event {number}", {"n": number, "api_key": "k-secret-1234"}, time.time_ns())
            span.add_link(OTHER)

    extras = newest()["extras"]
    events, links = extras["otel.events"], extras["otel.links"]
    assert [event["name"] for event in events] == [f"event {number}" for number in range(4, 20)]
    assert (extras["otel.dropped_events_count"], extras["otel.dropped_links_count"]) == (4, 5)
    assert events[-1]["attributes"]["n"] == 19
    assert 0 <= events[-1]["offset_ms"] <= newest()["duration_ms"] + 50
    assert (len(links), links[0]["span_id"]) == (16, "00f067aa0ba902b7")
    assert "k-secret" not in json.dumps(extras)


def test_after_its_end_nothing_changes_a_span(installed):
    """Neither it nor what was recorded, and it ends once."""
    with trace.new_trace("a.b"):
        span = installed.start_span("work")
        assert span.is_recording()
        span.end()
        span.set_attribute("late", 1)
        span.set_attributes({"late": 1})
        span.add_event("late")
        span.add_link(OTHER)
        span.set_status(StatusCode.ERROR, "late")
        span.record_exception(ValueError("late"))
        span.update_name("late")
        span.end()
        assert not span.is_recording()

    assert len(newest()["spans"]) == 1
    assert "late" not in json.dumps(newest())
    assert span.get_span_context().is_valid


def test_nothing_that_is_passed_raises(installed):
    """Values of any kind, also those whose own code fails: the span is there, with what could be kept."""
    hostile = Hostile()
    with installed.start_as_current_span("root", attributes={"a": 1}) as root:
        for given in (hostile, None, 5, b"x", {1: 2}, object()):
            root.set_attribute("value", given)
            root.set_attribute(given, given)
            root.set_attributes(given)
            root.set_attributes({"in a map": given})
            root.set_status(given, given)
            root.add_event(given, given, given)
            root.add_event("event", {"given": given})
            root.add_link(given, given)
            root.record_exception(given, given, given)
            installed.start_span("child", kind=given, attributes=given, links=given).end(given)
            installed.start_span(given).end()
            root.update_name(given)
        for given in (hostile, -1, 2**70, float("nan"), "x"):
            installed.start_span("child", start_time=given).end()

    assert newest()["extras"]["a"] == 1
    assert len(newest()["spans"]) == 6 + 6 + 5
    assert all(span["status"] == "ok" for span in newest()["spans"])


def test_times_that_are_given_are_kept(installed):
    """Both: the length that they say. One: against the clock as it is now. No part begins before the whole."""
    now = time.time_ns()
    root = installed.start_span("root", start_time=now - 500 * MS)
    with api.use_span(root):
        installed.start_span("both", start_time=now - 300 * MS).end(now - 100 * MS)
        installed.start_span("end before start", start_time=now).end(now - 3_600_000 * MS)
        installed.start_span("end").end(time.time_ns() + 50 * MS)
        installed.start_span("early", start_time=now - 900 * MS).end(now)
    root.end(now - 400 * MS)

    row = newest()
    spans = spans_by_name(row)
    assert row["started_us"] == (now - 500 * MS) // 1_000
    assert row["duration_ms"] == pytest.approx(100)
    assert spans["both"]["duration_ms"] == pytest.approx(200)
    assert spans["both"]["offset_ms"] == pytest.approx(200, abs=50)
    assert spans["end before start"]["duration_ms"] == 0
    assert 0 <= spans["end"]["duration_ms"] < 5_000
    assert spans["early"]["offset_ms"] == 0


def test_clock_that_is_set_back_makes_no_negative_time(installed, monkeypatch):
    """Within a span, by an hour: it ends after its start, and two times of the program are as far apart as it says."""
    now = time.time_ns()
    with trace.new_trace("a.b"):
        both, end = installed.start_span("both", start_time=now), installed.start_span("end")
        monkeypatch.setattr(bridge_span, "time_ns", lambda: time.time_ns() - 3_600_000 * MS)
        both.end(now + 70 * MS)
        end.end(bridge_span.time_ns())

    spans = spans_by_name(newest())
    assert spans["both"]["duration_ms"] == 70
    assert 0 <= spans["end"]["duration_ms"] < 60_000


def test_span_ends_on_another_thread(installed):
    """Many threads may write to one span, and any may end it."""
    with trace.new_trace("a.b"):
        span = installed.start_span("work")
        at_once(lambda number: (span.set_attribute(f"k{number}", number), span.end()), range(8))

    (stored,) = newest()["spans"]
    assert stored["status"] == "ok"
    assert stored["duration_ms"] >= 0


def test_ids_are_those_of_the_row(installed):
    """Of roots, children and our own spans; flags and `tracestate` go with them."""
    with installed.start_as_current_span("root") as root:
        root.scope.tracestate = "foo=1,foo=2,bar@v=3"
        with installed.start_as_current_span("child") as child, trace.span("ours"):
            ours = api.get_current_span().get_span_context()
            sent = parse(headers_for()["traceparent"])
    row = newest()
    spans = spans_by_name(row)

    root_id = root_span_id(row["trace_id"], row["started_us"], row["started_mono_ns"])
    assert f"{root.get_span_context().span_id:016x}" == root_id
    assert f"{child.get_span_context().span_id:016x}" == spans["child"]["id"] == spans["ours"]["parent"]
    assert f"{ours.span_id:016x}" == spans["ours"]["id"] == sent.span_id
    assert ours.trace_flags == TraceFlags(3)
    assert ours.trace_state.to_header() == "foo=1,bar@v=3"
    assert not ours.is_remote


def test_name_may_change(installed):
    """Of a span, and of a root, where it is the capability; secrets are no names."""
    with installed.start_as_current_span("GET") as root, installed.start_as_current_span("first") as child:
        root.update_name("GET /things/{id}")
        child.update_name("second")
        assert (root.name, child.name) == ("GET /things/{id}", "second")

    assert (newest()["capability"], newest()["spans"][0]["name"]) == ("GET /things/{id}", "second")


def test_spans_of_ours_may_hold_anything(fresh_api):
    """Of those the API sees what it can: extras of any kind do not raise there either."""
    assert otel.install()
    tracer = fresh_api.get_tracer("")
    with trace.new_trace("a.b") as started, trace.span("ours") as ours:
        ours.extras.update({1: 2, "otel.kind": "strange"})
        seen = api.get_current_span()
        assert (seen.kind, dict(seen.attributes)) == (SpanKind.INTERNAL, {1: 2})
        started.extras = ours.extras = None
        seen.set_attribute("a", 1)
        tracer.start_span("child").end()
    assert spans_by_name(newest())["ours"]["extras"] == {"a": 1}
    assert spans_by_name(newest())["child"]["extras"] == {}


def test_two_views_of_a_span_are_equal(installed):
    """The API hands out another object where our side has opened the span."""
    with trace.new_trace("a.b"), trace.span("ours"):
        assert api.get_current_span() == api.get_current_span()
        assert len({api.get_current_span(), api.get_current_span()}) == 1
        assert api.get_current_span() != installed.start_span("other")
