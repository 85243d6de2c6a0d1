"""W3C Trace Context: the vectors of its own tests, two spellings of an id, and what a call carries."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from hearthnet.observability import trace
from hearthnet.observability.records.ids import is_trace_id, new_trace_id
from hearthnet.observability.traces.traceparent import (
    TRACEPARENT,
    TRACESTATE,
    TraceParent,
    from_w3c,
    headers_for,
    parse,
    read_tracestate,
    root_span_id,
    spell,
    to_w3c,
)

TRACE = "12345678901234567890123456789012"
SPAN = "1234567890123456"
ULID_OF_TRACE = str(ULID.from_hex(TRACE))


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        f"fe-{TRACE}-{SPAN}-01-",
        f" 00-{TRACE}-{SPAN}-01",
        f"\t00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01\t",
        f"\t 00-{TRACE}-{SPAN}-01 \t",
    ],
)
def test_valid_header_is_read(header):
    """Version 00, later ones as far as they repeat it, and the white space that HTTP allows around a value."""
    assert parse(header) == TraceParent(ULID_OF_TRACE, SPAN, is_sampled=True)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "-",
        f"00-{TRACE}-{SPAN}-01.",
        f"00-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like",
        f"cc-{TRACE}-{SPAN}-011",
        f"ff-{TRACE}-{SPAN}-01",
        f"FF-{TRACE}-{SPAN}-01",
        f"CC-{TRACE}-{SPAN}-01",
        f".0-{TRACE}-{SPAN}-01",
        f"0.-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f"0000-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"cc-{'0' * 32}-{SPAN}-01",
        f"00-.{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}3-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{'A' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-.{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN[:-1]}.-01",
        f"00-{TRACE}-{SPAN}7-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00-{TRACE}-{'B' * 16}-01",
        f"00-{TRACE}-{SPAN}-.0",
        f"00-{TRACE}-{SPAN}-0.",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0A",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
        f"cc-{TRACE}-{SPAN}-01-\r\nX-Evil: 1",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        "00-" + "\u0660" * 32 + f"-{SPAN}-01",
        f"00-{ULID_OF_TRACE}-{SPAN}-01",
        pytest.param("0" * 200_000, id="long"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01" + "-" * 200_000 + "\n", id="long and wrong at its end"),
    ],
)
def test_invalid_header_is_none(header):
    """Whatever breaks a rule says nothing at all."""
    assert parse(header) is None


@pytest.mark.parametrize("version", ["00", "cc"])
@pytest.mark.parametrize(
    ("flags", "is_sampled", "is_random", "passed_on"),
    [
        ("00", False, False, "00"),
        ("01", True, False, "01"),
        ("02", False, True, "02"),
        ("03", True, True, "03"),
        ("ff", True, True, "03"),
        ("fc", False, False, "00"),
    ],
)
def test_flags_are_bits(version, flags, is_sampled, is_random, passed_on):
    """The two lowest bits have a meaning; unknown ones are no error, and are sent as 0."""
    said = parse(f"{version}-{TRACE}-{SPAN}-{flags}")

    assert (said.is_sampled, said.is_random) == (is_sampled, is_random)
    assert spell(*said[:2], is_sampled=is_sampled, is_random=is_random) == f"00-{TRACE}-{SPAN}-{passed_on}"


KEY_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
VALUE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")
MEMBERS = [f"bar{number:02}={number:02}" for number in range(1, 34)]


@pytest.mark.parametrize(
    ("headers", "passed_on"),
    [
        ([], ""),
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        ([""], ""),
        (["foo=1", ""], "foo=1"),
        (["", "foo=1"], "foo=1"),
        (["foo=1,,bar=2, ,"], "foo=1,bar=2"),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["\t foo=1 \t"], "foo=1"),
        (["foo= 1"], "foo= 1"),
        (["foo=1,foo=1"], "foo=1,foo=1"),
        (["foo=1", "foo=2"], "foo=1,foo=2"),
        ([f"{KEY_CHARS}={VALUE}"], f"{KEY_CHARS}={VALUE}"),
        ([f"{KEY_CHARS}@a-z0-9_-*/={VALUE}"], f"{KEY_CHARS}@a-z0-9_-*/={VALUE}"),
        (["0=1"], "0=1"),
        (["foo@=1,bar=2"], "foo@=1,bar=2"),
        (["foo@bar@baz=1,bar=2"], "foo@bar@baz=1,bar=2"),
        (["foo=1", f"{'z' * 256}=1"], f"foo=1,{'z' * 256}=1"),
        (["foo=1", f"{'t' * 242}@v=1"], f"foo=1,{'t' * 242}@v=1"),
        ([",".join(MEMBERS[:20]), ",".join(MEMBERS[20:32])], ",".join(MEMBERS[:32])),
    ],
)
def test_tracestate_is_passed_on(headers, passed_on):
    """Members as they came and in their order; empty ones and white space around them may go."""
    assert read_tracestate(headers) == passed_on


@pytest.mark.parametrize(
    "headers",
    [
        ["foo"],
        ["foo =1"],
        ["FOO=1"],
        ["foo.bar=1"],
        ["@foo=1,bar=2"],
        ["_foo=1"],
        ["=1"],
        ["foo=bar=baz"],
        ["foo=,bar=3"],
        ["foo=1", "é=1"],
        ["foo=1", "bar=\u00e9"],
        ["foo=a\tb"],
        ["foo=1\r\nX-Evil: 1"],
        ["foo=1", f"{'z' * 257}=1"],
        [f"foo={'1' * 257}"],
        [",".join(MEMBERS)],
        pytest.param(["," * 200_000], id="long"),
    ],
)
def test_tracestate_that_breaks_a_rule_is_dropped_whole(headers):
    """A member that is none, or one too many, says that the sender had another grammar in mind."""
    assert read_tracestate(headers) == ""


def test_long_tracestate_loses_whole_members():
    """Of more than 512 characters: first those over 128, from the end, then the last; one less would not do."""
    small = [f"k{number:02}={'v' * 60}" for number in range(7)]  # 64 characters each, 454 in all
    large = [f"big{number}={'v' * 124}" for number in range(2)]  # 129
    fits = f"{'e' * 66}={'v' * 61}"  # 128

    assert read_tracestate([",".join([large[0], *small[:5]])]) == ",".join([large[0], *small[:5]])
    assert read_tracestate([",".join([large[0], *small, large[1]])]) == ",".join(small)
    assert read_tracestate([",".join([large[0], *small[:5], large[1]])]) == ",".join([large[0], *small[:5]])
    assert read_tracestate([",".join([fits, *small])]) == ",".join([fits, *small[:5]])


@pytest.mark.parametrize(("more", "expected"), [(0, "a=1"), (1, ""), (100_000, "")])
def test_header_of_any_length_is_read_to_a_bound(more, expected):
    """What is blank counts as well."""
    assert read_tracestate(["a=1" + " " * (32_768 - 3 + more)]) == expected


@given(st.lists(st.text(KEY_CHARS + "=,@ \tA", max_size=300), max_size=6))
def test_what_is_passed_on_is_within_bounds(headers):
    """Whatever comes in; and reading it again changes nothing."""
    state = read_tracestate(headers)

    assert len(state) <= 512
    assert state.count(",") < 32
    assert read_tracestate([state]) == state


@given(st.integers(1, 2**128 - 1))
def test_each_id_has_one_spelling_as_the_other(number):
    """Every 128 bits but zero: as python-ulid spells them, and back without loss."""
    spelled = f"{number:032x}"

    assert from_w3c(spelled) == str(ULID.from_hex(spelled))
    assert is_trace_id(from_w3c(spelled))
    assert to_w3c(from_w3c(spelled)) == spelled


def test_ids_at_the_ends_of_the_range():
    """The first hexadecimal digit may be above 7: a ULID's first character has three bits, not five."""
    assert from_w3c("f" * 32) == "7" + "Z" * 25
    assert to_w3c("7" + "Z" * 25) == "f" * 32
    assert from_w3c("0" * 31 + "1") == "0" * 25 + "1"
    assert to_w3c(new_trace_id(1_779_783_262_281_000_000)).startswith("019e")


@pytest.mark.parametrize("given", ["", "0" * 32, "F" * 32, "f" * 31, "f" * 33, "g" * 32, "é" * 32, ULID_OF_TRACE])
def test_what_is_no_w3c_id_is_refused(given):
    """All zeros, upper case, another length, another alphabet."""
    with pytest.raises(ValueError, match="not a W3C trace id"):
        from_w3c(given)


@pytest.mark.parametrize("given", ["", "8" + "Z" * 25, ULID_OF_TRACE.lower(), TRACE, "U" * 26, "é" * 26])
def test_what_is_no_ulid_is_refused(given):
    """Beyond 128 bits, another case, another alphabet."""
    with pytest.raises(ValueError, match="not a ULID"):
        to_w3c(given)


@pytest.mark.parametrize(
    ("trace_id", "span_id"),
    [("x", SPAN), ("0" * 26, SPAN), (ULID_OF_TRACE, "0" * 16), (ULID_OF_TRACE, "x"), (ULID_OF_TRACE, "A" * 16)],
)
def test_no_invalid_header_is_written(trace_id, span_id):
    """What would not be read is not spelled either."""
    with pytest.raises(ValueError, match=r"not a|zeros"):
        spell(trace_id, span_id)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans(), st.booleans())
def test_what_is_written_is_read(trace_number, span_number, is_sampled, is_random):
    """Writing and reading are each other's reverse."""
    said = TraceParent(from_w3c(f"{trace_number:032x}"), f"{span_number:016x}", is_sampled, is_random)

    assert parse(spell(said.trace_id, said.span_id, is_sampled=is_sampled, is_random=is_random)) == said


@given(st.text() | st.text("0123456789abcdef-", min_size=50, max_size=60))
def test_reading_never_raises(text):
    """Whatever a header holds, it is a valid parent or None."""
    found = parse(text)

    assert found is None or (is_trace_id(found.trace_id) and re.fullmatch("[0-9a-f]{16}", found.span_id))


@given(st.text("0123456789abcdefAF-. \t", min_size=50, max_size=60) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-.*"))
def test_open_telemetry_reads_no_more_than_we_do(header):
    """OpenTelemetry's own propagator and ours agree on what is a parent, and which."""
    propagator = pytest.importorskip("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
    api = pytest.importorskip("opentelemetry.trace")
    theirs = api.get_current_span(propagator.extract({TRACEPARENT: header})).get_span_context()
    ours = parse(header)

    if ours is None:
        assert not theirs.is_valid or re.fullmatch(r"[ \t]*00-.*", header) is None
    else:
        assert (theirs.trace_id, theirs.span_id) == (int(to_w3c(ours.trace_id), 16), int(ours.span_id, 16))


def test_open_telemetry_joins_our_trace():
    """What we send, OpenTelemetry's propagator takes up with the same ids, as sampled."""
    propagator = pytest.importorskip("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
    api = pytest.importorskip("opentelemetry.trace")
    with trace.new_trace("a.b") as started, trace.span("call") as call:
        theirs = api.get_current_span(propagator.extract(headers_for())).get_span_context()
        expected = (int(to_w3c(started.trace_id), 16), int(call.id, 16))

    assert (theirs.trace_id, theirs.span_id, theirs.is_remote) == (*expected, True)
    assert theirs.trace_flags.sampled


def test_outgoing_call_names_the_innermost_span():
    """The parent of the called side is the span that is open where the call is made."""
    with trace.new_trace("a.b") as started, trace.span("outer"), trace.span("inner") as inner:
        said = parse(headers_for()[TRACEPARENT])
        assert said == TraceParent(started.trace_id, inner.id, is_sampled=True, is_random=True)


@pytest.mark.parametrize(
    ("given_id", "is_random"), [(None, True), ("no id", True), (ULID_OF_TRACE, False), (ULID_OF_TRACE.lower(), False)]
)
def test_random_is_said_of_what_is_minted_here(given_id, is_random):
    """Of an id that somewhere else made, its caller knows."""
    with trace.new_trace("a.b", trace_id=given_id) as started:
        assert parse(headers_for()[TRACEPARENT]).is_random is started.is_random is is_random


async def test_tracestate_follows_the_trace_into_tasks():
    """It is of the trace, wherever that is current; outside it there is none, nor in what is recorded."""
    with trace.new_trace("a.b", trace_id=ULID_OF_TRACE) as started:
        started.tracestate = "vendor=opaque"

        async def call():
            with trace.span("call"):
                return headers_for()[TRACESTATE]

        assert await asyncio.gather(call(), call()) == ["vendor=opaque"] * 2
    assert TRACESTATE not in headers_for(trace.get_recent(1)[0])
    assert "opaque" not in str(trace.get_recent(1)[0].as_dict())


async def test_outgoing_calls_side_by_side_have_their_own_parents():
    """Each task's call names that task's span."""

    async def call(name):
        async with trace.span(name) as made:
            await asyncio.sleep(0)
            return parse(headers_for()[TRACEPARENT]).span_id == made.id

    with trace.new_trace("a.b"):
        assert await asyncio.gather(call("a"), call("b"), call("c")) == [True] * 3


def test_outside_any_span_the_parent_is_the_root():
    """It is the same each time, never zero, and can be found again from the trace's row."""
    with trace.new_trace("a.b") as started:
        said = [parse(headers_for()[TRACEPARENT]).span_id for _ in range(2)]
        trace.attach(started)
        said.append(parse(headers_for(started)[TRACEPARENT]).span_id)
        trace.detach()

    row = trace.get_recent(1)[0].as_dict()
    assert set(said) == {root_span_id(row["trace_id"], row["started_us"], row["started_mono_ns"])}


def test_id_of_the_root_stays_the_same_from_version_to_version():
    """Other nodes have recorded it as the parent of what they did; it is never the id of all zeros."""
    assert root_span_id("01HXR4Z6W5S9E2JQ4Y0T7B3M1C", 1_790_000_000_000_000, 123_456_789) == "7917cb027aa36fd1"
    assert root_span_id("0" * 26, 0, 0) == "0000000000000001"


def test_roots_of_two_visits_differ():
    """One distributed trace that visits a node twice at the same time of day has two roots."""
    ids = {
        root_span_id(ULID_OF_TRACE, 1_779_783_262_281_000, started_ns) for started_ns in range(1_000, 1_010_000, 100)
    }

    assert len(ids) == 10_090
    assert all(re.fullmatch("[0-9a-f]{16}", item) and int(item, 16) for item in ids)


def test_another_trace_may_be_named():
    """A trace that is not current here: its root; the span that is open here is none of its own."""
    with trace.new_trace("a.first") as first:
        pass
    with trace.new_trace("a.second"), trace.span("open here") as here:
        said = parse(headers_for(first)[TRACEPARENT])
        assert said.trace_id == first.trace_id
        assert said.span_id != here.id


def test_without_a_trace_there_is_no_header():
    """Outside any trace, and in what outlives one, nothing is joined."""
    assert headers_for() == {}
    with trace.new_trace("a.b") as started:
        trace.attach(started)
    assert headers_for() == {}


def test_trace_of_all_zeros_has_no_header():
    """The one ULID that is no W3C id breaks nothing."""
    with trace.new_trace("a.b", trace_id="0" * 26), trace.span("s"):
        assert headers_for() == {}
