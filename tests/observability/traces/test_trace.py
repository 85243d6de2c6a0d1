"""What a trace keeps when there is too much, and the ids it takes."""

from __future__ import annotations

import contextvars
import gc
import itertools
import threading
import uuid
from types import SimpleNamespace

import orjson
import pytest
from support.records import a_log
from ulid import ULID

from hearthnet.constants import MAX_CAPABILITY_CHARS, MAX_STRING_BYTES
from hearthnet.observability import trace
from hearthnet.observability.records.context import current
from hearthnet.observability.redaction.rules import register_secrets
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces import begin
from hearthnet.observability.traces import span as spans
from hearthnet.observability.traces import trace as traces
from hearthnet.observability.traces.span import Span

GIVEN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


def record():
    """The newest trace as it is recorded: names of its spans, and how many were cut."""
    newest = runtime.recorder.pending_traces()[-1]
    return [item["name"] for item in orjson.loads(newest.spans)], orjson.loads(newest.extras).get("truncated", 0)


@pytest.fixture
def clock(monkeypatch):
    """A clock of spans that a test moves; each reading is a nanosecond later."""
    now = itertools.count(1)
    jumps = [0]
    monkeypatch.setattr(spans, "monotonic_ns", lambda: next(now) + jumps[0])

    def wait(ms):
        jumps[0] += ms * 1_000_000

    return wait


@pytest.mark.parametrize("many", [100, 1_000, 1_001, 5_000])
def test_failed_and_slow_spans_are_kept(many, clock):
    """Of many spans the failed and the slow are kept, wherever they were; in the order of their start, all counted."""
    with trace.new_trace("a.b"):
        for number in range(many):
            with pytest.raises(ValueError, match="x") if number == many * 9 // 10 else trace.span("ordinary"):
                if number == many * 9 // 10:
                    with trace.span("failed"):
                        raise ValueError("x")
                if number == many // 2:
                    with trace.span("slow"):
                        clock(100)

    names, cut = record()
    assert [name for name in names if name != "ordinary"] == ["slow", "failed"]
    assert names[0] == "ordinary"
    assert len(names) + cut == many + 1


def test_slower_spans_are_kept_before_faster_ones(clock):
    """Of those that did not fail, the slowest."""
    with trace.new_trace("a.b"):
        for number in range(300):
            with trace.span(f"step {number}"):
                clock(number * 7 % 300)

    names, cut = record()
    assert {int(name.split()[1]) * 7 % 300 for name in names} == set(range(300 - len(names), 300))
    assert len(names) + cut == 300
    assert [int(name.split()[1]) for name in names] == sorted(int(name.split()[1]) for name in names)


def test_all_that_fail_do_not_fit():
    """When more fail than a row has space for, those are kept that took longest; the rest is counted."""
    with trace.new_trace("a.b"):
        for _ in range(3_000):
            with pytest.raises(ValueError, match="x"), trace.span("failed"):
                raise ValueError("x")
        with trace.span("ordinary"):
            pass

    names, cut = record()
    assert names.count("failed") >= len(names) - 1 > 30
    assert len(names) + cut == 3_001


def test_half_of_the_spans_are_dropped_at_a_time():
    """Where there are too many: to choose them takes long."""
    with trace.new_trace("a.b") as started:
        for _ in range(traces.MAX_SPANS + 1):
            Span("open").__enter__()

        assert len(started.spans) == traces.MAX_SPANS // 2 + 1


def test_span_that_fails_after_it_was_dropped():
    """Of thousands that are open at once some are dropped; one of those that fails comes back."""
    with trace.new_trace("a.b") as started:
        opened = [Span("open").__enter__() for _ in range(3_000)]
        dropped = [item for item in opened if item not in started.spans]
        assert len(started.spans) <= 1_000
        failing = dropped[1]
        failing.name = "failed"
        failing.__exit__(ValueError, ValueError("x"), None)
        for item in reversed(opened):
            item.__exit__(None, None, None)

    names, cut = record()
    assert "failed" in names
    assert len(names) + cut == 3_000


def test_spans_open_at_the_end_are_kept():
    """What the end of the trace cuts short is kept like what failed."""
    trace.new_trace("a.b")
    Span("cut short").__enter__()
    for _ in range(200):
        with trace.span("ordinary"):
            pass
    trace.detach()

    assert record()[0][0] == "cut short"


@pytest.mark.parametrize("status", [object(), "\ud800", 7, [], float("nan")])
def test_status_of_any_kind_ranks_without_raising(status):
    """A status that the program has set costs no trace, however many spans there are."""
    with trace.new_trace("a.b"):
        for _ in range(1_200):
            with trace.span("ordinary"):
                pass
        with trace.span("strange") as strange:
            strange.status = status

    assert "strange" in record()[0]


def test_threads_that_add_spans_at_once():
    """Many threads fill one trace: it is recorded, bounded."""
    with trace.new_trace("a.b") as started:

        def add():
            trace.attach(started)
            for _ in range(1_500):
                with trace.span("work"):
                    pass
            trace.detach()

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    names, cut = record()
    assert len(names) > 30
    assert cut > 5_000


@pytest.mark.parametrize("given", [GIVEN, GIVEN.lower(), GIVEN.title(), ULID.from_str(GIVEN)], ids=repr)
def test_ulid_in_any_spelling_is_kept(given):
    """Upper or lower case, or an object of python-ulid: the id in its canonical spelling."""
    with trace.new_trace("a.b", trace_id=given) as started:
        assert started.trace_id == GIVEN


START_NS = 1_790_000_000_000_000_000


@pytest.mark.parametrize(
    "later_ns", [0, 1, 999_999, 1_000_000, 1_023_999_999, 1_024_000_000, 10**12, -1, -1_000_000, -(10**12)]
)
def test_trace_id_tells_when_the_trace_began(monkeypatch, later_ns):
    """Right behind another, or after the clock was set."""
    monkeypatch.setattr(begin, "time_ns", lambda: START_NS)
    with trace.new_trace("a.b"):
        pass
    monkeypatch.setattr(begin, "time_ns", lambda: START_NS + later_ns)
    with trace.new_trace("a.b") as started:
        pass

    assert ULID.from_str(started.trace_id).milliseconds == (START_NS + later_ns) // 1_000_000
    assert started.started_us == (START_NS + later_ns) // 1_000


def test_many_traces_that_begin_at_once_have_ids_of_their_own(monkeypatch):
    """More than are drawn at a time, within a millisecond."""
    monkeypatch.setattr(begin, "time_ns", lambda: START_NS)
    minted = []
    for _ in range(300):
        with trace.new_trace("a.b") as started:
            minted.append(started.trace_id)

    assert len(set(minted)) == 300
    assert {str(ULID.from_str(one))[:10] for one in minted} == {minted[0][:10]}


def test_names_are_judged_again_when_more_is_secret():
    """They were remembered as harmless; a capability's, a span's and a key's."""
    for _ in range(2):
        with (
            trace.new_trace("work.orchid-lantern-4471"),
            trace.span("orchid-lantern-4471", **{"orchid-lantern-4471": 1}),
        ):
            pass
        assert "orchid-lantern-4471" in str(runtime.recorder.pending_traces()[-1])
    register_secrets(["orchid-lantern-4471"])
    with trace.new_trace("work.orchid-lantern-4471"), trace.span("orchid-lantern-4471", **{"orchid-lantern-4471": 1}):
        pass

    assert "orchid" not in str(runtime.recorder.pending_traces()[-1])


@pytest.mark.parametrize("result", ["ok", "internal_error"])
def test_times_are_exact(monkeypatch, result):
    """To the nanosecond, as the clock said; whichever way the trace is recorded."""
    now = [1_000]
    for module in (begin, traces, spans):
        monkeypatch.setattr(module, "monotonic_ns", lambda: now[0])
    with trace.new_trace("a.b") as started:
        now[0] += 250_001
        with trace.span("step"):
            now[0] += 1_500_000
        now[0] += 1
        started.result = result

    (step,) = orjson.loads(runtime.recorder.pending_traces()[-1].spans)
    assert runtime.recorder.pending_traces()[-1].duration_ms == started.duration_ms == 1.750002
    assert (step["offset_ms"], step["duration_ms"]) == (0.250001, 1.5)
    assert (started.spans[0].offset_ms, started.spans[0].duration_ms) == (0.250001, 1.5)
    times = started.spans[0].started_ns, started.spans[0].closed_ns
    assert (times, {type(at_ns) for at_ns in times}) == ((251_001, 1_751_001), {int})


def test_capability_and_version_have_their_bounds():
    """Each its own; a part that is longer is cut, and says so."""
    name, version = "a" * MAX_CAPABILITY_CHARS, "1" * (MAX_CAPABILITY_CHARS - 1)
    with trace.new_trace(f"{name}@{version}") as whole:
        pass
    with trace.new_trace(f"{name}a@{version}") as cut:
        pass

    assert (whole.capability, whole.version) == (name, version)
    assert cut.capability.endswith("…[cut]")
    assert len(cut.capability.encode()) <= MAX_CAPABILITY_CHARS


class Counting:
    """A capability whose text is another each time."""

    def __init__(self):
        self.count = 0

    def __str__(self):
        self.count += 1
        return f"a.b{self.count}"


def test_names_are_remembered_within_bounds():
    """Of capabilities and spans; never an object, whose text may change."""
    changing = Counting()
    for number in range(3_000):
        with trace.new_trace(f"a.b{number}"), trace.span(f"s{number}"):
            pass
    for number in range(1, 4):
        with trace.new_trace(changing) as started:
            assert started.capability == f"a.b{number}"

    assert max(len(begin._names), len(spans.known_names)) <= 1_024


def test_error_that_the_program_sets_later_is_the_one_that_is_kept():
    """Without the secret that another part has told, as if it had been the first."""
    with trace.new_trace("a.b") as started:
        started.extras["password"] = "tiger12345"
        started.fail("internal_error", "with tiger12345")
        started.error = "about tiger12345"

    assert runtime.recorder.pending_traces()[-1].error == "about [redacted]"


def test_error_that_the_program_sets_back_to_its_own_words_is_redacted():
    """What was given to `fail` is not what is recorded of it."""
    said = "password=tiger12345"
    with trace.new_trace("a.b") as started:
        started.fail("internal_error", said)
        started.error = said

    assert runtime.recorder.pending_traces()[-1].error == "password=[redacted]"


class Silent:
    """Has no text."""

    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "given", [GIVEN[:-1], GIVEN + "0", "8" + GIVEN[1:], GIVEN.replace("S", "\N{LATIN SMALL LETTER LONG S}"),
              uuid.uuid4(), Silent(), b"01HXR4Z6W5S9E2JQ4Y0T7B3M1C", 7, f" {GIVEN}", f"{GIVEN}\n"],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_what_is_no_ulid_is_replaced(given):
    """Anything else is replaced by a fresh id; nothing raises."""
    with trace.new_trace("a.b", trace_id=given) as started:
        assert started.trace_id != given
        assert str(ULID.from_str(started.trace_id)) == started.trace_id


def test_span_of_a_trace_that_has_ended_and_was_read_is_an_orphan():
    """Work that outlives its trace adds nothing to it, also where the spans of its record were looked up before."""
    with trace.new_trace("a.b") as ended:
        outlives = contextvars.copy_context()
        with trace.span("known"):
            pass
    assert [item.name for item in ended.spans] == ["known"]

    late = outlives.run(trace.span("late").__enter__)

    assert [item.name for item in ended.spans] == ["known"]
    assert (late.id, spans.recent_orphans()[0]) == ("", "late")


def test_spans_of_a_record_that_the_program_changes():
    """They are decoded once, and shown as the program has left them."""
    with trace.new_trace("a.b") as ended, trace.span("known"):
        pass
    ended.spans[0].extras["more"] = 1

    assert ended.spans[0] is ended.spans[0]
    assert ended.as_dict()["spans"][0]["extras"] == {"more": 1}


def test_secret_that_an_error_tells_is_hidden_in_the_other_parts():
    """Also where the exception leaves the block by itself."""

    def fail():
        with trace.new_trace("a.b") as started:
            started.extras["note"] = "of tiger12345"
            raise ValueError("password=tiger12345")

    with pytest.raises(ValueError, match="tiger"):
        fail()
    kept = runtime.recorder.pending_traces()[-1]
    assert orjson.loads(kept.extras) == {"note": "of [redacted]"}
    assert kept.error == "ValueError: password=[redacted]"


def test_secret_at_the_edge_of_a_cut_error_leaves_no_half():
    """What tells it may come later than the error."""
    with trace.new_trace("a.b") as started:
        started.fail("internal_error", "x" * (MAX_STRING_BYTES - len("…[cut]".encode()) - 5) + "tiger12345" + "y" * 100)
        started.extras["password"] = "tiger12345"

    assert "tiger" not in runtime.recorder.pending_traces()[-1].error


def test_trace_within_one_that_has_ended_leads_back_to_the_one_around():
    """A block that ends puts no scope back that is over."""
    with trace.new_trace("outer") as outer:
        middle = trace.new_trace("middle")
        with trace.new_trace("inner"):
            middle.end()
        assert current.get() is outer


@pytest.mark.parametrize(("result", "dropped"), [("ok", 2), ("internal_error", 0)])
def test_records_that_wait_for_the_end_are_kept_or_counted_once(result, dropped):
    """With the trace if it failed; those of no message are not counted; one that is over takes none."""
    counted = []
    message = SimpleNamespace(drop_row=lambda: counted.append(1))
    with trace.new_trace("a.b") as started:
        assert started.seq == 0
        for about in (message, None, message):
            assert started.hold(a_log(0)[3:], about)
        started.result = result
    gc.collect()

    assert len(counted) == dropped
    assert len(runtime.recorder.pending_logs()) == (0 if dropped else 3)
    assert started.hold(a_log(0)[3:], message) is False
