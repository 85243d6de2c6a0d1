"""A program that records into the node's store what the tests of the page look for; run as a process."""

from __future__ import annotations

import sys

from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.logs import messages

log = get_logger("services.reader")
HOSTILE = (
    '<img src=x onerror="window.ran=1">', "<script>window.ran=1</script>", '"><svg onload=window.ran=1>',
    "\x1b[31mred\x1b[0m", "\u202egnorw\u202c", "w" * 2_048, 'C:\\t "x":-1', "{{7*7}}${7*7}", "a\nb\tc",
    "javascript:window.ran=1",
)  # fmt: skip


def ordinary() -> None:
    """A few traces of one capability with spans, fields and log records; every fourth fails."""
    for number in range(24):
        try:
            with trace.new_trace("library.read"), trace.span("open", shelf=number, path=f"/srv/{number}"):
                with trace.span("parse", pages=number * 10):
                    sorted(range(5_000), key=str)  # a span of some length
                    log.info("parsed", extra={"pages": number * 10})
                if number % 4 == 3:
                    log.error("the page is torn", extra={"page": number})
                    raise ValueError("torn")
        except ValueError:
            continue


def hostile(count: int) -> None:
    """Traces and log records full of texts that would be markup, code, colours or another order."""
    messages.LINES_A_SECOND = messages.ROWS_A_SECOND = 1_000_000
    for number in range(count):
        text = HOSTILE[number % len(HOSTILE)]
        try:
            with trace.new_trace(f"odd.{text}"[:200]), trace.span(text, **{"note": text, f"k{text[:20]}": text}):
                log.warning("%s", text, extra={"value": text})
                if number % 3 == 0:
                    raise ValueError(text)
        except ValueError:
            continue


with telemetry.open():
    if sys.argv[1] == "ordinary":
        ordinary()
    else:
        hostile(int(sys.argv[2]))
