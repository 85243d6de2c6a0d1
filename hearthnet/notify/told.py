"""What was reported of each check, and the changes still to be sent, in `doctor-notify.json` in the data folder.

A check that fails is reported at once; that it is well again only when that has held for `WELL_RUNS` runs, so one that
flaps is one message and not twenty. One that is reported as well and fails again within `QUIET_S` waits until that time
is over. What a channel could not send stays and is sent with the next run, also a failure that is over by then.

Guarantees:
    - Each change is sent once to each channel; again only after a crash between sending and saving, or if the channel
      takes a message and does not say so in time.
    - The file is whole, of mode 0600, and written by one doctor at a time. A damaged one counts as empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from hearthnet.files import locked_folder, read_regular, replace_private
from hearthnet.observability.records.record import safe_text

__all__ = ["STATE_FILE", "WELL_RUNS", "Event", "Told", "opened"]

STATE_FILE: Final = "doctor-notify.json"
WELL_RUNS: Final = 2
QUIET_S: Final = 3_600.0
_MAX_S: Final = 4e9  # since 1970
_MAX_PENDING: Final = 50  # of a channel that is away for weeks
_MAX_TEXT_BYTES: Final = 1_024
_LOCK_S: Final = 60.0  # a webhook may take its time
_VERSION: Final = 1
_RANKS: Final = {"fail": 2, "warn": 1}


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
    """What was reported. Changed by `note` and `sent`, saved by `save`."""

    directory: Path
    known: dict[str, _Known] = field(default_factory=dict)
    told_s: dict[str, float] = field(default_factory=dict)
    pending: dict[str, list[Event]] = field(default_factory=dict)

    def note(self, results: Iterable[Mapping[str, Any]], level: str, now_s: float, channels: Sequence[str]) -> None:
        """Takes the results of a run, and queues what has changed for each channel.

        Args:
            results: of checks, with the keys of the JSON report. Those that were skipped change nothing.
            level: `fail` or `warn`: the least that is reported.
            now_s: seconds since 1970.
            channels: their names; what waits for any other is dropped. A new one gets the present state.
        """
        lowest = _RANKS[level]
        before = [known.event for known in self.known.values()]
        events = [event for result in results if (event := self._event(result, lowest, now_s)) is not None]
        queued = {name: self.pending.get(name, before) for name in channels}
        self.pending = {name: [*waiting, *events][-_MAX_PENDING:] for name, waiting in queued.items()}
        self.told_s = {name: at for name, at in self.told_s.items() if 0 <= now_s - at < QUIET_S}

    def _event(self, result: Mapping[str, Any], lowest: int, now_s: float) -> Event | None:
        name, status = str(result["name"]), result["status"]
        rank = _RANKS.get(status, 0)
        if rank >= lowest:
            return self._bad(name, rank, result, now_s)
        if status == "warn" and (known := self.known.get(name)) is not None:
            known.well_runs = 0  # better, and not well
        return self._well(name, result, now_s) if status == "pass" else None

    def _bad(self, name: str, rank: int, result: Mapping[str, Any], now_s: float) -> Event | None:
        known = self.known.get(name)
        if known is not None:
            known.well_runs = 0
            if rank <= _RANKS[known.event.status]:
                return None
        elif 0 <= now_s - self.told_s.get(name, -QUIET_S) < QUIET_S:
            return None
        since_s = now_s if known is None else known.event.since_s
        event = _made(name, str(result["status"]), result, since_s, now_s)
        self.known[name] = _Known(event)
        self.told_s[name] = now_s
        return event

    def _well(self, name: str, result: Mapping[str, Any], now_s: float) -> Event | None:
        known = self.known.get(name)
        if known is None:
            return None
        known.well_runs += 1
        if known.well_runs < WELL_RUNS:
            return None
        del self.known[name]
        return _made(name, "pass", result, known.event.since_s, now_s)

    def sent(self, channel: str) -> None:
        """Notes that all that waited for a channel is sent."""
        self.pending[channel] = []

    def save(self) -> None:
        """Writes the file.

        Raises:
            OSError: raised when it cannot be written.
        """
        document = {
            "version": _VERSION,
            "known": {
                name: {**asdict(known.event), "well_runs": known.well_runs} for name, known in self.known.items()
            },
            "told_s": self.told_s,
            "pending": {channel: [asdict(event) for event in events] for channel, events in self.pending.items()},
        }
        path = self.directory / STATE_FILE
        replace_private(path, orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
        if os.geteuid() == 0:  # root checked another user's node: that user's doctor must be able to write too
            owner = self.directory.stat()
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextmanager
def opened(directory: Path) -> Iterator[Told]:
    """Yields what was reported, locked against other doctors.

    Raises:
        OSError: raised when the folder or the file cannot be read, or another doctor holds it.
    """
    with locked_folder(directory, _LOCK_S):
        yield _read(directory)


def _read(directory: Path) -> Told:
    try:
        value = orjson.loads(read_regular(directory / STATE_FILE))
        known = {str(name): _Known(_parsed(one), int(one.get("well_runs", 0))) for name, one in value["known"].items()}
        if any(one.event.status not in _RANKS for one in known.values()):
            raise ValueError("a check that is well is not known")
        told_s = {str(name): float(at) for name, at in value["told_s"].items()}
        pending = {str(name): [_parsed(one) for one in events] for name, events in value["pending"].items()}
    except FileNotFoundError:
        return Told(directory)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):  # damaged, or changed by hand
        return Told(directory)
    return Told(directory, known, told_s, pending)


def _parsed(value: Mapping[str, Any]) -> Event:
    if value["status"] not in ("pass", *_RANKS):
        raise ValueError(value["status"])
    if not all(0 <= float(value[key]) < _MAX_S for key in ("since_s", "at_s")):
        raise ValueError("a time that no clock shows")
    fix = value["fix"]
    return Event(
        str(value["name"]), value["status"], str(value["detail"]), None if fix is None else str(fix),
        float(value["since_s"]), float(value["at_s"]),
    )  # fmt: skip


def _made(name: str, status: str, result: Mapping[str, Any], since_s: float, now_s: float) -> Event:
    fix = None if status == "pass" or result["fix"] is None else safe_text(str(result["fix"]), _MAX_TEXT_BYTES)
    return Event(name, status, safe_text(str(result["detail"]), _MAX_TEXT_BYTES), fix, since_s, now_s)
