"""A message about what has changed: a title, a text, and a document for programs."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hearthnet.display import counted
from hearthnet.notify.told import Event

__all__ = ["Message", "about", "trial"]

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
_MAX_TITLE_CHARS: Final = 160
_MAX_TEXT_BYTES: Final = 3_500  # ntfy makes a file of a text over 4,096 bytes
# Of each status, the worst first.
_WORDS: Final = {"fail": "fails", "warn": "warns", "pass": "is well again"}
_VERBS: Final = {"fail": "failing", "warn": "warning", "pass": "well again"}
_MARKS: Final = {"fail": "FAIL", "warn": "WARN", "pass": "WELL"}
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Message:
    """A message; title and text hold no control characters but the text's line ends.

    Attributes:
        title: one line.
        text: what happened, and what to do.
        urgency: `high`, `default` or `low`.
        events: of which it tells.
        host: of this machine.
        at: when it was made.
    """

    title: str
    text: str
    urgency: str
    events: tuple[Event, ...]
    host: str
    at: datetime

    def document(self) -> dict[str, Any]:
        """Returns the message for a program: `text` alone says all of it."""
        return {
            "version": _VERSION,
            "title": self.title,
            "message": self.text,
            "text": f"{self.title}\n{self.text}",
            "urgency": self.urgency,
            "host": self.host,
            "ts": _iso(self.at.timestamp()),
            "changes": [_change(event) for event in self.events],
        }


def _change(event: Event) -> dict[str, Any]:
    about_it = {"name": event.name, "status": event.status, "detail": event.detail, "fix": event.fix}
    return {**about_it, "since": _iso(event.since_s), "ts": _iso(event.at_s)}


def about(events: Sequence[Event], now_s: float) -> Message:
    """Returns the message about some changes, worst first."""
    order = list(_WORDS)
    ordered = sorted(events, key=lambda event: (order.index(event.status), event.at_s))
    host = one_line(socket.gethostname())
    worst = ordered[0].status if ordered else "pass"
    urgency = {"fail": "high", "warn": "default", "pass": "low"}[worst]
    text = "\n".join(_line(event, now_s) for event in ordered)
    if len(text.encode()) > _MAX_TEXT_BYTES:
        text = text.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore") + "\n… more: hearthnet doctor"
    return Message(_title(ordered, host), text, urgency, tuple(ordered), host, datetime.fromtimestamp(now_s, UTC))


def trial(now_s: float) -> Message:
    """Returns a message that tries a channel."""
    host = one_line(socket.gethostname())
    text = "This is a test: hearthnet doctor --notify --test. What the doctor finds comes this way."
    return Message(f"HearthNet on {host}: a test", text, "default", (), host, datetime.fromtimestamp(now_s, UTC))


def one_line(text: str) -> str:
    """Returns a text without anything that could end a line or a header."""
    return _CONTROL.sub(" ", text.encode("utf-8", "replace").decode()).strip()


def _title(events: Sequence[Event], host: str) -> str:
    match events:
        case [event]:
            about_it = f"{event.name} {_WORDS[event.status]}"
        case _:
            counts = Counter(event.status for event in events)
            about_it = ", ".join(
                f"{counted(counts[status], 'check')} {verb}" for status, verb in _VERBS.items() if counts[status]
            )
    return one_line(f"HearthNet on {host}: {about_it}")[:_MAX_TITLE_CHARS]


def _line(event: Event, now_s: float) -> str:
    when = ""
    if event.status == "pass":
        when = f" (not well since {_local(event.since_s)})"
    elif now_s - event.at_s > 60:  # it could not be sent then
        when = f" ({_local(event.at_s)})"
    fix = "" if event.fix is None else f"\n  fix: {one_line(event.fix)}"
    return f"{_MARKS[event.status]} {one_line(event.name)}{when}: {one_line(event.detail)}{fix}"


def _local(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC).astimezone():%Y-%m-%d %H:%M}"


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
