"""Log records and gaps back to rows."""

from __future__ import annotations

import orjson
import pytest
from support.records import a_log

from hearthnet.constants import MAX_LOG_ROW_BYTES
from hearthnet.observability.otel.export.mapping import Gap, Sender, mapped
from hearthnet.observability.otel.export.otlp_json import as_json
from hearthnet.observability.otel.imports.logs import read

ID = "01M8PB3HQC7D4KZXGR0H1X3EKY"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nValueError: x\n'


@pytest.mark.parametrize(
    "record",
    [
        a_log(3),
        a_log(4, level="error", notable=1, exc=TRACEBACK, extras=b'{"a":1,"b":[1,2]}'),
        a_log(5, level="debug", trace_id=ID, span_id="000000000000000a", repeats=7, msg="two\nlines \u2028 ü"),
        a_log(6, level="critical", notable=1, extras=b'{"truncated_keys":3}', msg=""),
        Gap("run", 0, 7_000_000, "trace", "buffer_full", 12),
    ],
)
def test_export_and_back_is_the_same(record):
    """With its number, which the export has."""
    ((run_id, scope, fields),) = mapped("logs", [record], Sender())

    assert read(run_id, scope, as_json(fields)) == record


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"severityNumber": 1}, "debug"), ({"severityNumber": 9}, "info"), ({"severityNumber": 24}, "critical"),
        ({"severityNumber": 2**63}, "critical"), ({"severityText": "WARN", "severityNumber": 13}, "warning"),
        ({"severityText": "Error"}, "error"), ({}, "info"),
    ],
)  # fmt: skip
def test_levels_of_other_tools(fields, level):
    """By their text where it is one of ours, else by the number."""
    assert read("run", "x", {"observedTimeUnixNano": "5000", **fields}).level == level


@pytest.mark.parametrize("uid", ["run-0x1", "run-", "other-5", f"run-{'9' * 400}", "run-\u0665", 5, None])
def test_identity_that_is_none_of_ours(uid):
    """Stays a field; a number is given later."""
    value = {"intValue": uid} if isinstance(uid, int) else {"stringValue": uid} if uid is not None else {}
    made = read("run", "x", {"timeUnixNano": 1_000, "attributes": [{"key": "log.record.uid", "value": value}]})

    assert made.number == 0
    assert orjson.loads(made.extras).get("log.record.uid") == uid


@pytest.mark.parametrize("kind", ["row", "", None, 5])
def test_gap_that_is_none_is_a_record(kind):
    """Nothing that is no gap gets into the table of gaps."""
    value = {} if kind is None else {"intValue": kind} if isinstance(kind, int) else {"stringValue": kind}
    fields = {"eventName": "hearthnet.lost", "timeUnixNano": 1_000}

    assert read("run", "x", fields | {"attributes": [{"key": "hearthnet.lost.kind", "value": value}]}).msg == ""


def test_long_record_is_cut_and_secrets_are_redacted():
    """As those that are made here."""
    stack = {"key": "exception.stacktrace", "value": {"stringValue": "x" * 100_000}}
    many = [{"key": f"k{n}", "value": {"stringValue": "y" * 999}} for n in range(200)]
    secret = {"key": "api_key", "value": {"stringValue": "hunter2-hunter2"}}
    body = {"kvlistValue": {"values": [{"key": "text", "value": {"stringValue": "z" * 9_000}}]}}
    made = read("run", "x", {"timeUnixNano": 1_000, "attributes": [secret, stack, *many], "body": body})

    assert len(made.msg) + len(made.extras) + len(made.exc) <= MAX_LOG_ROW_BYTES
    assert b"hunter2" not in made.extras
    assert made.msg.startswith('{"text":"zzz')
