"""What was reported of each check, and the changes still to be sent.

A check that fails is reported at once; that it is well again only when that has held for `WELL_RUNS` runs, so one that
flaps is one message and not twenty. One that fails again within `QUIET_S` of its last message waits until that time is
over. What a channel could not send stays and is sent with the next run, also a failure that is over by then. What waits
for a channel that this run does not have, because another run was given it as an option, stays for `_AWAY_S`.

Guarantees:
    - Each change is sent once to each channel; again only after a crash between sending and saving, if the channel
      takes a message and does not say so in time, or if the state can be kept nowhere (`kept`).
    - The file is whole, of mode 0600, and written by one doctor at a time. A damaged one, or one of a later version,
      counts as empty: what fails is sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from hearthnet.notify.kept import Kept
from hearthnet.observability.records.record import safe_text

__all__ = ["QUIET_S", "WELL_RUNS", "Event", "Told", "opened"]

WELL_RUNS: Final = 2
QUIET_S: Final = 3_600.0
_MAX_S: Final = 4e9  # since 1970
_MAX_PENDING: Final = 50  # of a channel that is away for weeks
_MAX_CHANNELS: Final = 16  # those of other runs
_AWAY_S: Final = 30 * 86_400.0
_MAX_NAME_BYTES: Final = 128
_MAX_TEXT_BYTES: Final = 1_024
_VERSION: Final = 1
_RANKS: Final = {"fail": 2, "warn": 1}
_TIMES: Final = ("told_s", "seen_s")
_MAX_SAVES: Final = 2**53

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Event:
    """A change that is worth a message.

    Attributes:
        name: of the check.
        status: `fail`, `warn`, or `pass` when it is well again.
        detail: the check's.
        fix: what to do, or None.
        since_s: when it failed first, seconds since 1970.
        at_s: when this was found.
    """

    name: str
    status: str
    detail: str
    fix: str | None
    since_s: float
    at_s: float


@dataclass(slots=True)
class _Known:
    """A check that was reported as not well."""

    event: Event
    well_runs: int = 0


@dataclass(slots=True)
class Told:
    """What was reported. Changed by `note` and `sent`, saved by `save`.

    Attributes:
        kept: where it is kept.
        known: the checks that are not well.
        told_s: when a check was reported to be well again, within `QUIET_S`; seconds since 1970.
        pending: what waits for each channel.
        seen_s: when a run last had each channel.
        saves: how often the state was written; of two files the one with more is the newer.
        is_apart: whether it began while the data folder was missing, so that the file there knows nothing of it.
    """

    kept: Kept
    known: dict[str, _Known] = field(default_factory=dict)
    told_s: dict[str, float] = field(default_factory=dict)
    pending: dict[str, list[Event]] = field(default_factory=dict)
    seen_s: dict[str, float] = field(default_factory=dict)
    saves: int = 0
    is_apart: bool = False

    def note(self, results: Iterable[Mapping[str, Any]], level: str, now_s: float, channels: Sequence[str]) -> None:
        """Takes the results of a run, and queues what has changed for each channel.

        Args:
            results: of checks, with the keys of the JSON report. Those that were skipped change nothing.
            level: `fail` or `warn`: the least that is reported.
            now_s: seconds since 1970.
            channels: their names. A new one gets the present state.
        """
        lowest = _RANKS[level]
        before = [known.event for known in self.known.values()]
        self.told_s = {name: at for name, at in self.told_s.items() if 0 <= now_s - at < QUIET_S}
        events = [event for result in results if (event := self._event(result, lowest, now_s)) is not None]
        self.seen_s |= dict.fromkeys(channels, now_s)
        queued = {name: self.pending.get(name, before) for name in [*channels, *self._others(channels, now_s)]}
        self.seen_s = {name: at for name, at in self.seen_s.items() if name in queued}
        self.pending = {name: [*waiting, *events][-_MAX_PENDING:] for name, waiting in queued.items()}

    def _others(self, channels: Sequence[str], now_s: float) -> list[str]:
        """Returns the channels that other runs have had lately."""
        lately = (name for name in self.pending if abs(now_s - self.seen_s.setdefault(name, now_s)) < _AWAY_S)
        names = sorted((name for name in lately if name not in channels), key=lambda name: self.seen_s[name])
        return names[-_MAX_CHANNELS:]

    def _event(self, result: Mapping[str, Any], lowest: int, now_s: float) -> Event | None:
        name, status = safe_text(result["name"], _MAX_NAME_BYTES), result["status"]
        rank = _RANKS.get(status, 0)
        if rank >= lowest:
            return self._bad(name, rank, result, now_s)
        if rank and name in self.known:
            self.known[name].well_runs = 0  # better, and not well
        return self._well(name, result, now_s) if status == "pass" else None

    def _bad(self, name: str, rank: int, result: Mapping[str, Any], now_s: float) -> Event | None:
        known = self.known.get(name)
        if known is not None:
            known.well_runs = 0
            if rank <= _RANKS[known.event.status]:
                return None
        elif name in self.told_s:
            return None
        since_s = now_s if known is None else known.event.since_s
        event = _made(name, result["status"], result, since_s, now_s)
        self.known[name] = _Known(event)
        return event

    def _well(self, name: str, result: Mapping[str, Any], now_s: float) -> Event | None:
        known = self.known.get(name)
        if known is None:
            return None
        known.well_runs += 1
        if known.well_runs < WELL_RUNS:
            return None
        del self.known[name]
        self.told_s[name] = now_s
        return _made(name, "pass", result, known.event.since_s, now_s)

    def join(self, apart: Told) -> None:
        """Adds what was reported, and what waits, since the data folder went missing."""
        self.known = apart.known | self.known
        for channel, waiting in apart.pending.items():
            self.pending[channel] = [*self.pending.get(channel, ()), *waiting][-_MAX_PENDING:]
        for times, others in ((self.told_s, apart.told_s), (self.seen_s, apart.seen_s)):
            times |= {name: max(at, times.get(name, at)) for name, at in others.items()}

    def sent(self, channel: str) -> None:
        """Notes that all that waited for a channel is sent."""
        self.pending[channel] = []

    def save(self) -> None:
        """Writes the state; `kept` says what became of it."""
        self.saves += 1
        document = {
            "version": _VERSION,
            "saves": self.saves,
            "is_apart": self.is_apart,
            "known": {
                name: {**asdict(known.event), "well_runs": known.well_runs} for name, known in self.known.items()
            },
            "told_s": self.told_s,
            "pending": self.pending,
            "seen_s": self.seen_s,
        }
        self.kept.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))


@contextmanager
def opened(directory: Path) -> Iterator[Told]:
    """Yields what was reported, locked against other doctors.

    Raises:
        TimeoutError: raised when another doctor holds it.
    """
    with Kept(directory) as kept:
        found = [told for content in kept.read() if (told := _read(content, kept)) is not None]
        yield _joined(found, kept)


def _joined(found: list[Told], kept: Kept) -> Told:
    """Returns the newest state, with what was reported while that was out of reach."""
    newest = max((told for told in found if not told.is_apart), key=lambda told: told.saves, default=None)
    apart = next((told for told in found if told.is_apart), None)
    if newest is None:
        newest = apart or Told(kept, is_apart=True)
        newest.is_apart = newest.is_apart and kept.is_away
    elif apart is not None:
        newest.join(apart)
    return newest


def _read(content: bytes, kept: Kept) -> Told | None:
    """Returns the state in a file; None if it is damaged, changed by hand, or of a later version."""
    try:
        value = orjson.loads(content)
        if value["version"] != _VERSION:
            return None
        known = {name: _known(one) for name, one in value["known"].items()}
        pending = {name: [_parsed(one) for one in events] for name, events in value["pending"].items()}
        told_s, seen_s = ({name: _within(at, _MAX_S) for name, at in value[key].items()} for key in _TIMES)
        saves = _within(value["saves"], _MAX_SAVES)
        return Told(kept, known, told_s, pending, seen_s, saves, value["is_apart"] is True)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _known(value: Mapping[str, Any]) -> _Known:
    event = _parsed(value)
    if event.status == "pass":
        raise ValueError  # it is not known, then
    return _Known(event, _within(value["well_runs"], WELL_RUNS))


def _parsed(value: Mapping[str, Any]) -> Event:
    event = Event(**{part.name: value[part.name] for part in fields(Event)})
    _within(event.since_s, _MAX_S)
    _within(event.at_s, _MAX_S)
    texts = (event.name, event.detail, "" if event.fix is None else event.fix)
    if event.status not in ("pass", *_RANKS) or not all(isinstance(text, str) for text in texts):
        raise ValueError
    return event


def _within(number: _Number, end: float) -> _Number:
    """Returns a number.

    Raises:
        ValueError: raised when it is below 0, or not below the end.
    """
    if not 0 <= number < end:
        raise ValueError
    return number


def _made(name: str, status: str, result: Mapping[str, Any], since_s: float, now_s: float) -> Event:
    fix = None if status == "pass" or result["fix"] is None else safe_text(result["fix"], _MAX_TEXT_BYTES)
    return Event(name, status, safe_text(result["detail"], _MAX_TEXT_BYTES), fix, since_s, now_s)
