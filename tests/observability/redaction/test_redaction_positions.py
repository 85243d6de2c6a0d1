"""Every kind of secret in every position of a record, read back from all files that telemetry writes."""

from __future__ import annotations

import io
import json
import logging as stdlib_logging
import logging.handlers
import queue
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.reading import log_lines

from hearthnet.constants import MAX_STRING_BYTES
from hearthnet.observability import doctor, get_logger, telemetry, trace
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.logs.messages import find
from hearthnet.observability.records.record import clean_text
from hearthnet.observability.redaction.rules import REDACTED, scrub
from hearthnet.observability.redaction.told import MAX_TOLD, Known, Told, known_here, tell, told_throughout
from hearthnet.observability.runtime import runtime

S = "q7Zk2VbX9mT4wLr8sD1fGh3J"
KINDS = {
    "token of a service": (f"sent ghp_{S}AbCdEfGh1234 on", f"{S}AbC"),
    "token with a dot": (f"sent SG.{S[:22]}.{S}{S} on", f"{S}{S[:8]}"),
    "option in a list": (f"Command '['tool', '--token', '{S}']' failed", S),
    "option of one command": (f"ran curl -u bob:{S} http://h", S),
    "argument of a call": (f'setenv("API_TOKEN", "{S}")', S),
    "element": (f"<apiToken>{S}</apiToken>", S),
    "pair of name and value": (f'{{"name": "x_token", "value": "{S}"}}', S),
    "name without a sign": (f"with x_token {S} sent", S),
    "name of two words": (f"stripe key: {S}", S),
    "open name": (f"with OPENAI_KEY={S}", S),
    "declared with a type": (f'var xToken string = "{S}"', S),
    "header": (f"Authorization: Bearer {S}", S),
    "URL": (f"redis://u:{S}@h/0", S),
    "cookie": (f"PHPSESSID={S}; path=/", S),
}
FOREIGN = stdlib_logging.getLogger("foreign.library")
log = get_logger("hearthnet.positions")


def raise_in_a_span(text: str) -> None:
    """A trace that fails within a span."""
    try:
        with trace.new_trace("experimental.position@1.0"), trace.span("inner"):
            raise RuntimeError(text)
    except RuntimeError:
        pass


def with_a_span(name: str, **fields: object) -> None:
    """A trace with one span."""
    with trace.new_trace("experimental.position@1.0"), trace.span(name, **fields):
        pass


def log_exception(text: str) -> None:
    """An error with a cause, of the same text."""
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError(text) from error
    except RuntimeError:
        log.exception("failed")


def log_stack(text: str) -> None:
    """A record with its stack, whose message has the secret."""
    log.warning(text, stack_info=True)


POSITIONS = {
    "message": log.warning,
    "argument": lambda text: log.warning("it said %s", text),
    "several arguments": lambda text: log.warning("%s: %d, %r", "x", 3, text),
    "field": lambda text: log.warning("x", extra={"said": text}),
    "name of a field": lambda text: log.warning("x", extra={text: 1}),
    "nested": lambda text: log.warning("x", extra={"a": {"b": [{"c": (text,)}]}}),
    "name in a nested field": lambda text: log.warning("x", extra={"a": {"b": {text: 1}}}),
    "bytes": lambda text: log.warning("x", extra={"raw": text.encode()}),
    "object": lambda text: log.warning("x", extra={"error": ValueError(text)}),
    "exception": log_exception,
    "stack": log_stack,
    "foreign message": lambda text: FOREIGN.warning("it said %s", text),
    "foreign field": lambda text: FOREIGN.warning("x", extra={"said": text}),
    "span's name": with_a_span,
    "span's field": lambda text: with_a_span("inner", said=text),
    "span's nested field": lambda text: with_a_span("inner", said={"deep": [text]}),
    "trace's error": raise_in_a_span,
    "logger's name": lambda text: stdlib_logging.getLogger(f"foreign.{text}").warning("x"),
}


def test_page_names_each_position():
    """All of them, and how many these are."""
    page = (Path(__file__).parents[3] / "docs" / "redaction.md").read_text("utf-8")
    section = " ".join(page.partition("## Positions")[2].partition("\n## ")[0].split())

    assert f"each of {len(POSITIONS)} positions" in section
    assert section.rpartition(": ")[2] == f"{', '.join(POSITIONS)}."


def everything(observability) -> bytes:
    """All that is in the files of telemetry."""
    folders = (observability.data_dir, observability.log_dir)
    return b"\n".join(path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("position", POSITIONS)
def test_no_kind_survives_in_any_position(observability, position):
    """Neither a line nor a row nor a box has the secret; each record says that there was one."""
    with telemetry.open(observability) as opened:
        for text, _ in KINDS.values():
            POSITIONS[position](text)
        assert opened.flush()
        found = everything(observability)
    found += everything(observability)

    assert [kind for kind, (_, secret) in KINDS.items() if secret.encode() in found] == []
    assert found.count(REDACTED.encode()) >= len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_survives_in_a_finding_of_the_doctor(config, kind):
    """Detail, fix and evidence, names included."""
    text, secret = KINDS[kind]
    doctor.register("careless", lambda *_: CheckResult("careless", False, text, text, evidence={text: [text]}))
    try:
        found = doctor.run_one("careless", config).as_dict()
    finally:
        doctor._checks.pop("careless")

    assert secret not in str(found)
    assert str(found).count(REDACTED) >= 4


VALUE = "h4zel-nut-9921"
TOLD = {
    "message, then field": lambda: log.warning(f"password={VALUE}", extra={"url": f"/x/{VALUE}/y"}),
    "field, then message": lambda: log.warning(f"refused {VALUE}", extra={"password": VALUE}),
    "field, then field": lambda: log.warning("x", extra={"a": f"got {VALUE}", "deep": {"api_token": VALUE}}),
    "argument, then argument": lambda: log.warning("%s and %s", f"token={VALUE}", VALUE),
    "field, then exception": lambda: fail_with(f"refused {VALUE}", {"password": VALUE}),
    "exception, then message": lambda: fail_with(f"password={VALUE}", {"said": VALUE}),
    "span's field, then error": lambda: fail_in_span({"password": VALUE}, f"refused {VALUE}"),
    "span's field, then span's field": lambda: with_a_span("inner", password=VALUE, url=f"/x/{VALUE}"),
    "foreign": lambda: FOREIGN.warning("refused %s", VALUE, extra={"password": VALUE}),
}


def fail_with(text: str, fields: dict[str, object]) -> None:
    """A record with an exception."""
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed", extra=fields)


def fail_in_span(fields: dict[str, object], text: str) -> None:
    """A trace whose span fails."""
    try:
        with trace.new_trace("experimental.position@1.0"), trace.span("inner", **fields):
            raise RuntimeError(text)
    except RuntimeError:
        pass


@pytest.mark.parametrize("case", TOLD)
def test_secret_told_in_one_place_is_known_in_the_others(observability, case):
    """Where one part of a record names the secret, no other part has the same characters; also the second time."""
    with telemetry.open(observability) as opened:
        TOLD[case]()
        TOLD[case]()
        assert opened.flush()
        found = everything(observability)

    assert VALUE.encode() not in found
    assert found.count(REDACTED.encode()) >= 4


def test_what_was_told_is_for_one_record(observability):
    """The next record has the value again, if nothing there says that it is a secret."""
    with telemetry.open(observability) as opened:
        log.warning("x", extra={"password": VALUE})
        log.warning(f"a plain {VALUE}")
        assert opened.flush()
        found = everything(observability)

    assert f"a plain {VALUE}".encode() in found


def test_what_is_told_is_bounded():
    """Neither many values nor long ones are kept, nor what is no secret by itself; without a record, nothing."""
    tell(VALUE)
    with Told() as told:
        tell("a1" * 2_000)
        tell("swordfish", "12345678", "short1")
        assert told == []
        with Told() as inner:
            tell(VALUE)
        assert (told, inner) == ([], [VALUE])
        tell(*(f"value-{number:04}-a1b2" for number in range(100)))
    tell(VALUE)

    assert len(told) == MAX_TOLD
    assert VALUE not in told


def test_bounds_of_what_is_told():
    """Eight to 512 characters, four of them different, with letters and digits, no path; of two words the last, too."""
    one, other = "abc1" * 2, "abc1" * 128
    for value in (one, other, "a1b2c3d4", "/a1+b2/c3=d4"):
        with Told() as told:
            tell(value, value)
        assert told == [value]
    for value in (one[:7], f"{other}a", "ab1ab1ab", "abcdefgh", "12345678", "/a1/b2/c3", f"a1b2{REDACTED}"):
        with Told() as told:
            tell(value)
        assert told == []
    with Told() as told:
        tell(f"Bearer {VALUE}", "x y1b2c3d4e")
    assert told == [f"Bearer {VALUE}", VALUE, "x y1b2c3d4e", "y1b2c3d4e"]


def test_what_is_known_within_ends_with_it():
    """The inner secrets are known besides the outer ones, and then no more; so is what is told."""
    with Known(["a1b2c3d4"]), Told() as outer:
        with Known(["e5f6g7h8"]), Told() as inner:
            assert known_here() == ("a1b2c3d4", "e5f6g7h8")
            tell("i9j0k1l2")
        tell("m3n4o5p6")
        assert known_here() == ("a1b2c3d4",)
    tell("q7r8s9t0")

    assert (outer, inner, known_here()) == (["m3n4o5p6"], ["i9j0k1l2"], ())


def test_record_is_made_again_if_it_tells_more():
    """With what was known from the start, and what it has told; else once."""
    made: list[str] = []

    def make(text: str) -> str:
        made.append(scrub(text))
        return made[-1]

    known_before = ["an-0ther-one"]
    told, plain = f"password={VALUE}, an-0ther-one", "a harmless text"
    last, known_then = told_throughout(lambda: make(told), known_before)
    assert (last, set(known_then)) == (f"password={REDACTED}, {REDACTED}", {"an-0ther-one", VALUE})
    assert told_throughout(lambda: make(plain), known_before) == (plain, ("an-0ther-one",))
    assert told_throughout(lambda: make(plain)) == (plain, ())
    assert len(made) == 4


@pytest.mark.parametrize("value", ["tiger12345", "u00e9tiger1", "n1234abcd56", 'quo"ted-1234', "back\\slash-12"])
def test_what_is_told_leaves_json_whole(observability, value):
    """A value that is, or ends, an escape of JSON is replaced as text: lines and rows are JSON still."""
    note = f"a\\t{value[1:]} {chr(9)}{value[1:]} {value}"
    with telemetry.open(observability) as opened:
        with trace.new_trace("job.x") as made, trace.span("s", password=value, note=note):
            log.error("m", extra={"password": value, "note": note})
        assert opened.flush()
        (found,) = [one for one in trace.get_recent(5) if one.trace_id == made.trace_id]
        lines = log_lines(observability.log_dir)
        rows = [json.loads(extras) for (extras,) in logged_extras(observability)]

    expected = note.replace(value, REDACTED)
    assert found.spans[0].extras["note"] == expected
    assert [line["note"] for line in lines if line["msg"] == "m"] == [expected]
    assert [extras["note"] for extras in rows if "note" in extras] == [expected]


def logged_extras(observability):
    """Returns the fields of all rows of log records."""
    with closing(sqlite3.connect(observability.data_dir / telemetry.DATABASE)) as connection:
        return connection.execute("SELECT extras FROM logs").fetchall()


def test_ids_are_not_replaced(observability):
    """A field may have the id of a span under a secret's name: what refers to the span still does."""
    with telemetry.open(observability), trace.new_trace("x") as made, trace.span("outer") as outer:
        outer.extras["session_token"] = outer.id
        with trace.span("inner"):
            pass
    (found,) = [one for one in trace.get_recent(5) if one.trace_id == made.trace_id]

    assert [one.parent for one in found.spans] == [None, outer.id]
    assert found.spans[0].extras == {"session_token": REDACTED}


def test_count_of_drops_has_no_secret_of_what_it_counts(observability):
    """The record in place of many equal ones has their message without what their fields have told."""
    with telemetry.open(observability) as opened:
        for _ in range(40):
            log.info(f"login with {VALUE}", extra={"password": VALUE})
        assert opened.flush()
    found = everything(observability)

    assert VALUE.encode() not in found
    with closing(sqlite3.connect(observability.data_dir / telemetry.DATABASE)) as connection:
        assert connection.execute("SELECT sum(1 + repeats) FROM logs WHERE msg LIKE 'login%'").fetchone() == (40,)


@pytest.mark.parametrize("way", ["stream", "queue"])
def test_no_handler_gets_what_a_field_has_told(observability, way):
    """Another handler beside ours, and ours behind a queue: message and traceback have none of it either."""
    shown = io.StringIO()
    with telemetry.open(observability) as opened:
        root, ours = stdlib_logging.getLogger(), runtime.handler
        other = stdlib_logging.StreamHandler(shown)
        if way == "queue":
            waiting = queue.SimpleQueue()
            other = stdlib_logging.handlers.QueueHandler(waiting)
            root.removeHandler(ours)
            listener = stdlib_logging.handlers.QueueListener(waiting, ours)
            listener.start()
        root.addHandler(other)
        try:
            for _ in range(2):
                log.warning(f"login with {VALUE}", extra={"password": VALUE})
                fail_with(f"bad {VALUE}", {"password": VALUE})
        finally:
            root.removeHandler(other)
            if way == "queue":
                listener.stop()
                root.addHandler(ours)
        assert opened.flush()
    found = everything(observability) + shown.getvalue().encode()

    assert VALUE.encode() not in found
    assert found.count(b"login with [redacted]") >= 2


def log_within():
    """A value whose text logs meanwhile."""

    class Talking:
        def __str__(self):
            log.info("meanwhile", extra={"password": "an-0ther-one"})
            return "talking"

    log.warning("x", extra={"password": VALUE, "talking": Talking(), "note": f"n {VALUE}"})


def fail_and_log():
    """A trace whose error tells the secret, with other records between that and its end."""
    with trace.new_trace("x") as made:
        made.extras["note"] = f"used {VALUE}"
        made.fail("timeout", f"password={VALUE}")
        log.info("in between", extra={"password": "an-0ther-one"})


@pytest.mark.parametrize("record", [log_within, fail_and_log])
def test_records_in_between_change_nothing(observability, record):
    """Each record has what it tells by itself, whatever else is recorded while it is made."""
    with telemetry.open(observability) as opened:
        record()
        assert opened.flush()
    found = everything(observability)

    assert VALUE.encode() not in found
    assert found.count(REDACTED.encode()) >= 3


def test_what_one_record_has_told_does_not_stay():
    """A value of one record is a word of another: the message that comes next has it whole."""
    with Told() as told:
        clean_text("token=request42")
    assert told == ["request42"]

    assert find("hearthnet.x", 20, "step done").without(tuple(told)).told == ()
    assert find("hearthnet.x", 20, "next request42").shown().text == "next request42"


def test_told_secret_at_a_cut_keeps_no_half(observability, unsampled):
    """What is told in a field is replaced in the message before that is cut for its row, wherever the cut is."""
    secret = "hunter2abcd9XYzzQQ8877aabbccdd"
    with telemetry.open(observability) as opened:
        for before in range(1_000, 1_030):
            log.warning("x" * before + " " + secret, extra={"password": secret})
        assert opened.flush()
    with closing(sqlite3.connect(observability.data_dir / telemetry.DATABASE)) as connection:
        assert connection.execute("SELECT count(*) FROM logs WHERE msg LIKE 'xxx%'").fetchone() == (30,)

    assert secret[:8].encode() not in everything(observability)


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": f"Bearer {VALUE}"},
        {"headers": [("authorization", f"Bearer {VALUE}")]},
        {"headers": [("x-api-key", VALUE)]},
        {"password": VALUE.encode()},
        {"auth": {"password": VALUE}},
        {"password": [VALUE]},
    ],
    ids=str,
)
def test_value_is_told_by_every_form_of_a_field(observability, fields):
    """Headers, pairs, bytes and containers tell as much as text."""
    with telemetry.open(observability) as opened:
        log.warning(f"got 401 for {VALUE}", extra=fields)
        assert opened.flush()

    assert VALUE.encode() not in everything(observability)


@pytest.mark.parametrize("before", [0, 1, 7, 20, 40, 60])
def test_secret_at_the_edge_is_redacted_before_the_cut(before):
    """A text that is cut in the middle of a secret keeps no part of it."""
    limit = 64
    text = "x" * before + f" password={S} " + "y" * 2 * limit
    cleaned = clean_text(text, limit)

    assert len(cleaned.encode()) <= limit
    assert S[:6] not in cleaned
    assert S[:6] not in clean_text("z " * (MAX_STRING_BYTES // 2 - before) + text)


def test_traceback_is_redacted_before_its_beginning_is_dropped(observability):
    """A secret that lies across the edge of what a row keeps of a traceback leaves no tail."""
    with telemetry.open(observability) as opened:
        for length in range(0, 1_100, 53):
            fail_with(f"password={S} {'y' * length}", {})
        assert opened.flush()
        found = everything(observability)

    assert S[-6:].encode() not in found
    assert sys.exception() is None
