"""What a backend's response to one request means: a pure function of its status, headers and body.

    accepted   the records are delivered, but for those that it says it rejects
    retry      the same request, later: it is overloaded, or away
    unsure     likewise, but five times at most; then it is taken for refused
    refused    it does not take this content: the batch is halved, and a single record skipped if it takes others
    misset     the settings are at fault, not the records: they wait, and one request every five minutes asks again

OTLP forbids to repeat a request that was refused with 401 or 404. For a program that must not lose a week because of a
key that has expired, a try every five minutes is the lesser evil: to drop the records would not renew the key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

import orjson

__all__ = ["MAX_WAIT_S", "Verdict", "judge", "judge_failure", "retry_after_s"]

Kind = Literal["accepted", "retry", "unsure", "refused", "misset"]

MAX_WAIT_S: Final = 3_600.0  # that a Retry-After may ask for
_RETRY: Final = frozenset({429, *range(502, 600)})  # 502 to 504, and those of proxies, such as 521
_UNSURE: Final = frozenset({408, 500})
_REFUSED: Final = frozenset({400, 413, 422})
_REJECTED: Final = {"traces": "rejectedSpans", "logs": "rejectedLogRecords"}
_MAX_WORDS: Final = 200  # characters of a body that are logged
_GRPC_PORT: Final = 4317
_HTTP_PORT: Final = 4318
_NO_COLLECTOR: Final = "no collector responds there"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of a response.

    Attributes:
        kind: see the module.
        reason: one word for metrics: `partial`, `http_429`, `connect` …
        words: for people; never a secret of the request.
        rejected: how many spans or log records an accepted request lost.
        wait_s: how long the backend asks to wait; None: it does not say.
    """

    kind: Kind
    reason: str = ""
    words: str = ""
    rejected: int = 0
    wait_s: float | None = None


Parse = Callable[[str, bytes], tuple[int, str]]


def judge(
    signal: str, status: int, headers: Mapping[str, str], body: bytes, parse: Parse, now_s: float | None = None
) -> Verdict:
    """Returns what a response means.

    Args:
        signal: `traces` or `logs`.
        status: of the response.
        headers: of the response, names in lower case.
        body: of the response.
        parse: decodes a body of protobuf; raises ValueError if it is none.
        now_s: UTC seconds since 1970; None: now.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    reason = f"http_{status}"
    if 200 <= status < 300:
        if kind == "text/html":
            return Verdict("misset", "html", f"{_NO_COLLECTOR}: the response is a web page")
        return _accepted(signal, kind, body, parse)
    words = f"HTTP {status}{_said(kind, body)}"
    if status in _RETRY:
        wait_s = retry_after_s(headers.get("retry-after"), now_s)
        return Verdict("retry", reason, words, wait_s=wait_s)
    if status in _REFUSED:
        return Verdict("refused", reason, words)
    if status in _UNSURE:
        return Verdict("unsure", reason, words, wait_s=retry_after_s(headers.get("retry-after"), now_s))
    if 300 <= status < 400:
        words = f"{_NO_COLLECTOR}: HTTP {status} leads elsewhere"
    return Verdict("misset", reason, words)


def _accepted(signal: str, kind: str, body: bytes, parse: Parse) -> Verdict:
    """Returns the verdict on a success: also with a body that cannot be read, for it must not be sent twice."""
    if not body:
        return Verdict("accepted")
    try:
        rejected, words = _of_json(signal, body) if kind == "application/json" else parse(signal, body)
    except (ValueError, TypeError, OverflowError):
        return Verdict("accepted", words=f"the response cannot be read: {kind or 'no content type'}")
    if rejected > 0:
        return Verdict("accepted", "partial", words[:_MAX_WORDS], rejected=rejected)
    return Verdict("accepted", words=words[:_MAX_WORDS])


def _of_json(signal: str, body: bytes) -> tuple[int, str]:
    document = orjson.loads(body)
    part: Any = document.get("partialSuccess") if isinstance(document, dict) else None
    if not isinstance(part, dict):
        return 0, ""
    return int(part.get(_REJECTED[signal]) or 0), str(part.get("errorMessage") or "")


def _said(kind: str, body: bytes) -> str:
    """Returns the beginning of a readable body, on one line."""
    if not body or kind in ("application/x-protobuf", "text/html"):
        return ""
    text = " ".join(body[: 4 * _MAX_WORDS].decode("utf-8", "replace").split())
    return f": {text[:_MAX_WORDS]}" if text.isprintable() and text else ""


def judge_failure(error: Exception, port: int | None) -> Verdict:
    """Returns the verdict on a request without a response: a lost connection, a timeout, a name that is not known."""
    name = type(error).__name__
    reason = "timeout" if "Timeout" in name else "connect" if "Connect" in name else "broken"
    words = " ".join(f"{name}: {error}".split())[:_MAX_WORDS].rstrip(": ")
    if port == _GRPC_PORT:
        words += f"; port {_GRPC_PORT} is that of gRPC, OTLP over HTTP has {_HTTP_PORT}"
    return Verdict("retry", reason, words)


def retry_after_s(header: str | None, now_s: float | None = None) -> float | None:
    """Returns the seconds that a `Retry-After` header asks to wait, an hour at most; None if it says nothing of use."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_WAIT_S)
    try:
        wait_s = parsedate_to_datetime(text).timestamp() - (time.time() if now_s is None else now_s)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, wait_s), MAX_WAIT_S)
