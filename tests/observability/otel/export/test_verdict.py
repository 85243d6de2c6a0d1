"""What a response means, as a table: accepted, later, not this, or not with these settings."""

from __future__ import annotations

import httpx
import pytest
from support.otlp import partial

from hearthnet.observability.otel.export.protobuf import partial_success
from hearthnet.observability.otel.export.verdict import MAX_WAIT_S, judge, judge_failure, retry_after_s

PROTO = "application/x-protobuf"
NOW_S = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def judged(status, kind="", body=b"", signal="traces", **headers):
    """The verdict on a response."""
    return judge(signal, status, {"content-type": kind, **headers}, body, partial_success, NOW_S)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, "accepted"), (202, "accepted"), (204, "accepted"),
        (301, "misset"), (302, "misset"), (304, "misset"), (308, "misset"),
        (400, "refused"), (413, "refused"), (422, "refused"),
        (401, "misset"), (403, "misset"), (404, "misset"), (405, "misset"), (407, "misset"), (415, "misset"),
        (402, "misset"), (410, "misset"), (431, "misset"), (501, "misset"),
        (429, "retry"), (502, "retry"), (503, "retry"), (504, "retry"),
        (505, "retry"), (507, "retry"), (521, "retry"), (599, "retry"),
        (408, "unsure"), (500, "unsure"),
    ],
)  # fmt: skip
def test_status(status, kind):
    """Each status has one meaning."""
    assert judged(status).kind == kind


@pytest.mark.parametrize(
    ("kind", "body", "verdict", "rejected"),
    [
        (PROTO, b"", "accepted", 0),
        (PROTO, partial("traces", 3, "too old").body, "accepted", 3),
        (PROTO, partial("traces", 0, "deprecated").body, "accepted", 0),
        (PROTO, b"\xff\xff\xff", "accepted", 0),
        ("text/plain", b"OK", "accepted", 0),
        (
            "application/json; charset=utf-8",
            b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}',
            "accepted",
            3,
        ),
        ("application/json", b"{}", "accepted", 0),
        ("application/json", b"{", "accepted", 0),
        ("application/json", b'{"partialSuccess":{"rejectedSpans":"many"}}', "accepted", 0),
        ("application/json", b'{"partialSuccess":{"rejectedSpans":[1]}}', "accepted", 0),
        ("Text/HTML; charset=utf-8", b"<html>Sign in", "misset", 0),
    ],
)
def test_success(kind, body, verdict, rejected):
    """A success is one whatever its body, but for a web page: that is no collector."""
    found = judged(200, kind, body)

    assert (found.kind, found.rejected) == (verdict, rejected)
    assert found.reason == ("partial" if rejected else "html" if verdict == "misset" else "")


def test_rejected_log_records():
    """Have a field of their own."""
    found = judged(200, "application/json", b'{"partialSuccess":{"rejectedLogRecords":2}}', "logs")

    assert (found.rejected, judged(200, PROTO, partial("logs", 2, "x").body, "logs").rejected) == (2, 2)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("10", 10.0), (" 0 ", 0.0), ("99999999999999999999", MAX_WAIT_S), ("7200", MAX_WAIT_S),
        ("Tue, 14 Nov 2023 22:13:22 GMT", 2.0), ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("soon", None), ("", None), ("-1", None), ("1e3", None), ("٣", None), ("0x10", None), (None, None),
    ],
)  # fmt: skip
def test_retry_after(header, seconds):
    """Seconds or a date, an hour at most; anything else says nothing."""
    assert retry_after_s(header, NOW_S) == seconds


def test_retry_after_is_part_of_the_verdict():
    """Of those that may be sent again."""
    assert judged(429, **{"retry-after": "7"}).wait_s == 7.0
    assert judged(400, **{"retry-after": "7"}).wait_s is None


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("text/plain", b"quota\n exceeded", "HTTP 429: quota exceeded"),
        ("application/json", b"{}", "HTTP 429: {}"),
        (PROTO, b"\x0a\x01x", "HTTP 429"),
        ("text/plain", b"\x1b[31m", "HTTP 429"),
        ("text/html", b"<html>", "HTTP 429"),
        ("text/plain", b"x" * 9_000, "HTTP 429: " + "x" * 200),
    ],
)
def test_words(kind, body, words):
    """The backend's own words, where they can be read on a line."""
    assert judged(429, kind, body).words == words


@pytest.mark.parametrize(
    ("error", "port", "reason", "words"),
    [
        (httpx.ConnectError("refused"), 4318, "connect", "ConnectError: refused"),
        (httpx.ConnectTimeout(""), None, "timeout", "ConnectTimeout"),
        (httpx.ReadTimeout("x"), None, "timeout", "ReadTimeout: x"),
        (
            httpx.RemoteProtocolError("illegal request line"), 4317, "broken",
            "RemoteProtocolError: illegal request line; port 4317 is that of gRPC, OTLP over HTTP has 4318",
        ),
    ],
)  # fmt: skip
def test_failure(error, port, reason, words):
    """Without a response it is tried again; the usual mistake is named."""
    found = judge_failure(error, port)

    assert (found.kind, found.reason, found.words) == ("retry", reason, words)
