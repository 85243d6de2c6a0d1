"""Moments and durations as people write and read them: one parser for every option that takes a time, one printer.

A moment is given as UTC microseconds. `parse` reads every form of a time that any command prints. All that print one
cut it to whole milliseconds or seconds, as the JSON log does, and never round: a record must not show two times.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

__all__ = ["FORMS", "at", "duration", "ended_us", "in_local_time", "iso", "local", "parse"]

FORMS: Final = "90m (ago), 2d, 16:30, yesterday, 2026-05-26 or 2026-05-26T08:14:22Z"

_AGE: Final = re.compile(r"(?:\d{1,9}[smhdw])+(?: ?ago)?")
_AGE_PART: Final = re.compile(r"(\d+)([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DAYS: Final = {"today": 0, "yesterday": 1}
_CLOCK: Final = re.compile(r"\d{1,2}:\d\d.*")
_DAY_OF_YEAR: Final = re.compile(r"(\d\d-\d\d)\b(?!-)(.*)")
_ZONE_APART: Final = re.compile(r"\s+(?=(?:[+-]\d\d:?\d\d|Z)$)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UTC: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


def parse(text: str, now: datetime | None = None) -> int:
    """Returns a moment as UTC microseconds.

    It may be an age (`90m`, `2d`, `1h30m`; units s, m, h, d, w), `now`, a time of day (the latest that is past), or a
    day with or without a time: `today`, `yesterday`, a date by ISO 8601, also without its year. A day alone means its
    midnight. Without a zone it is local time.

    Args:
        text: what the user wrote.
        now: the present moment, with a zone; None: the clock's.

    Raises:
        ValueError: raised when it is none of these, or out of range; the message lists the forms.
    """
    present = (now or datetime.now(UTC)).astimezone()
    try:
        return (_moment(_ZONE_APART.sub("", text.strip().upper()), present) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is not a time: use {FORMS}") from None


def _moment(text: str, now: datetime) -> datetime:
    lower = text.lower()
    if _AGE.fullmatch(lower):
        seconds = sum(int(count) * _SECONDS[unit] for count, unit in _AGE_PART.findall(lower))
        return now - timedelta(seconds=seconds)
    if lower == "now":
        return now
    word, _, clock = lower.partition(" ")
    if word in _DAYS:
        return _at(now.date() - timedelta(days=_DAYS[word]), clock.strip().upper() or "00:00")
    if _CLOCK.fullmatch(text):
        return _latest(text, now)
    if match := _DAY_OF_YEAR.fullmatch(text):
        found = datetime.fromisoformat(f"{now.year}-{match[1]}{match[2]}").astimezone()
        return found if found <= now else datetime.fromisoformat(f"{now.year - 1}-{match[1]}{match[2]}").astimezone()
    return datetime.fromisoformat(text).astimezone()


def _latest(clock: str, now: datetime) -> datetime:
    """Returns when a clock showed this time last: today, or yesterday if it is still to come."""
    zone = _time(clock).tzinfo
    today = now.astimezone(zone).date()
    found = _at(today, clock)
    return found if found <= now else _at(today - timedelta(days=1), clock)


def _at(day: date, clock: str) -> datetime:
    return datetime.combine(day, _time(clock)).astimezone()


def _time(clock: str) -> time:
    return time.fromisoformat(clock if clock[1:2] != ":" else f"0{clock}")


def ended_us(started_us: int, duration_ms: float) -> int:
    """Returns when that ended which started at `started_us` and took `duration_ms`; as SQL does it in `rows.py`."""
    return started_us + int(duration_ms * 1_000)


def at(us: int) -> datetime | None:
    """Returns a moment in local time; None for a number out of range."""
    try:
        return (_EPOCH + us * _MICROSECOND).astimezone()
    except (OverflowError, ValueError, OSError):
        return None


def local(us: int, digits: str = "milliseconds") -> str:
    """Returns a moment as local date, time and offset, cut to `digits`: a `timespec` of `isoformat`."""
    moment = at(us)
    return f"{us} us" if moment is None else moment.isoformat(" ", digits)


def iso(us: int | None, digits: str = "milliseconds") -> str | None:
    """Returns a moment as ISO 8601 in UTC, cut to `digits`; None for a number out of range."""
    try:
        moment = None if us is None else _EPOCH + us * _MICROSECOND
    except (OverflowError, ValueError):
        return None
    return None if moment is None else moment.replace(tzinfo=None).isoformat("T", digits) + "Z"


def in_local_time(text: str) -> str:
    """Returns `text` with every ISO 8601 time in UTC replaced by local date, time and offset."""
    return _UTC.sub(_as_local, text)


def _as_local(match: re.Match[str]) -> str:
    digits = "milliseconds" if "." in match[0] else "seconds"
    try:
        return datetime.fromisoformat(match[0]).astimezone().isoformat(" ", digits)
    except (OverflowError, ValueError, OSError):
        return match[0]


def duration(seconds: float) -> str:
    """Returns a duration with one unit: `46 ms`, `46.4 s`, `5.4 min`, `6.0 h`, `2.1 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.0f} ms"
