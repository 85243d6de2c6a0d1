"""The JSON of the page's views, by functions that block: each is a few queries of its own thread."""

from __future__ import annotations

import time
from typing import Any, Final

from hearthnet.errors import IdentityError, WireError
from hearthnet.identity.keys import short_id
from hearthnet.observability.otel.export.mapping import Origin
from hearthnet.observability.otel.export.otlp_json import export_request
from hearthnet.observability.store.query import calls, flights, holdings, lives, relations, trouble
from hearthnet.observability.store.query.news import Place, place_of
from hearthnet.observability.store.query.one_trace import one_trace
from hearthnet.observability.store.query.unsent import origins
from hearthnet.observability.store.reader import Reader, TraceFilter
from hearthnet.observability.store.rows import now_us
from hearthnet.transport.page.source import Page
from hearthnet.transport.page.verdict import us_of, verdict

__all__ = ["Overview", "capabilities", "catalogue", "doctor", "one_run", "otlp", "runs", "series", "trace"]

WINDOW_S: Final = 3_600
_HOUR_US: Final = 3_600_000_000
_MINUTE_US: Final = 60_000_000
_KEPT_S: Final = 5.0  # figures over thousands of calls change little in that time
_QUIET_S: Final = 20.0  # without a new record only the time moves on, and the sizes of files
NO_TRACE: Final = "the ring has no such trace any more"


class Overview:
    """What the first view shows, made for all viewers at once.

    Args:
        page: the page.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._kept: dict[str, Any] = {}
        self._kept_place, self._kept_at = Place("", 0), float("-inf")
        self._interrupted: tuple[object, list[dict[str, Any]]] = (None, [])  # with what they are of

    def now(self, *, has_vitals: bool = True) -> dict[str, Any]:
        """Returns the overview; the samples of process health are many, and only the newest goes into the stream.

        Raises:
            StoreError: raised when there is no database, or it cannot be read.
        """
        page, reader, moment = self._page, self._page.live, now_us()
        boxes = flights.boxes(page.settings.data_dir)
        living = {view.header.run_id for view in boxes if view.is_alive}
        run = lives.main_run(reader, living)
        kept = self._figures(reader, moment)
        vitals = _vitals(reader, run, boxes)
        if run is not None and run["last_seen_us"] is None:  # alive, or it died and is not recovered yet
            seen = (view.last_seen_us for view in boxes if view.header.run_id == run["run_id"])
            run["last_seen_us"] = next(seen, None)
        return {
            "now_us": moment,
            "node": _node(page, run),
            "verdict": verdict(run, kept["trouble"], page.checks.latest(), kept["last_failure_us"]),
            "in_flight": flights.flights(boxes) + self._interrupted_calls(reader, run, moment),
            "vitals": vitals if has_vitals else vitals[-1:],
            "store": kept["store"],
            "totals": kept["totals"],
        }

    def _figures(self, reader: Reader, moment: int) -> dict[str, Any]:
        """Returns counts over thousands of rows, kept for a while: for longer while no record comes."""
        settings = self._page.settings
        place, age_s = place_of(reader, self._page.path), time.monotonic() - self._kept_at
        is_other = place.epoch != self._kept_place.epoch
        if is_other or age_s > (_KEPT_S if place != self._kept_place else _QUIET_S):
            self._kept = {
                "store": holdings.holdings(reader, settings.data_dir, settings.log_dir, settings.max_disk_mb),
                "totals": {**calls.totals(reader, moment - WINDOW_S * 1_000_000), "window_s": WINDOW_S},
                "trouble": trouble.trouble(reader, moment),
                "last_failure_us": trouble.last_failure_us(reader),
            }
            self._kept_place, self._kept_at = place, time.monotonic()
        return self._kept

    def _interrupted_calls(self, reader: Reader, run: dict[str, Any] | None, moment: int) -> list[dict[str, Any]]:
        """Returns the calls in flight of the run that died, kept as long as the figures: the whole ring is read.

        Recovery writes last of a run that it died, after its calls.
        """
        run_id = _died(reader, run, moment)
        if run_id is None:
            return []
        known = (run_id, self._kept_place.epoch, self._kept_at)
        if self._interrupted[0] != known:
            self._interrupted = (known, flights.interrupted(reader, run_id))
        return self._interrupted[1]


def _node(page: Page, run: dict[str, Any] | None) -> dict[str, Any]:
    known = run or dict.fromkeys(("version", "program", "role", "run_id", "started_us", "pid", "node_id"))
    node_id = page.settings.node_id or known["node_id"]
    names = ("version", "program", "role", "run_id", "started_us", "pid")
    return {
        "name": page.settings.name or known["program"] or "",
        "node_id": node_id,
        "short_id": _short(node_id),
        **{name: known[name] for name in names},
        "is_alive": bool(run and run["is_alive"]),
    }


def _short(node_id: str | None) -> str | None:
    """Returns the short form of a node's id; of a damaged file the id itself."""
    try:
        return node_id and short_id(node_id)
    except IdentityError:
        return node_id


def _vitals(reader: Reader, run: dict[str, Any] | None, boxes: list[flights.BoxView]) -> list[dict[str, Any]]:
    """Returns the samples of the run, from its box or, once that is recovered, from its row."""
    if run is None:
        return []
    own = next((view.vitals for view in boxes if view.header.run_id == run["run_id"]), None)
    return flights.vitals_json(lives.run_vitals(reader, run["run_id"]) if own is None else own)


def _died(reader: Reader, run: dict[str, Any] | None, moment: int) -> str | None:
    """Returns the id of the last run that died: as long as no other runs, and for an hour after."""
    dead = lives.last_dead_run(reader, of_node=bool(run and run["role"] == "node"))
    if dead is None or run is None:
        return None
    is_newest = dead["run_id"] == run["run_id"]
    is_recent = (dead["ended_us"] or 0) > moment - _HOUR_US
    return str(dead["run_id"]) if is_newest or is_recent else None


def living(page: Page) -> set[str]:
    """Returns the ids of the runs whose processes live."""
    return flights.living(page.settings.data_dir)


def series(page: Page, minutes: int, capability: str | None) -> dict[str, Any]:
    """Returns the calls of each step of the last `minutes`, with the runs and gaps of that time."""
    step_s = calls.step_for(minutes)
    step_us = step_s * 1_000_000
    to_us = now_us()
    from_us = (to_us - minutes * _MINUTE_US) // step_us * step_us
    return {
        "from_us": from_us,
        "to_us": to_us,
        "step_s": step_s,
        "ring_from_us": holdings.ring_from_us(page.reader),
        "points": calls.series(page.reader, from_us, to_us, step_s, capability),
        "runs": lives.runs_between(page.reader, from_us, to_us, living(page)),
        "gaps": calls.gaps(page.reader, from_us, to_us),
    }


def capabilities(page: Page, minutes: int | None) -> dict[str, Any]:
    """Returns the figures of each capability, over the ring or the last `minutes`."""
    since_us = 0 if minutes is None else now_us() - minutes * _MINUTE_US
    return {"capabilities": calls.by_capability(page.reader, since_us)}


def runs(page: Page) -> dict[str, Any]:
    """Returns the newest runs with how they ended, as far as that is known, and the figures of each version."""
    found = lives.newest_runs(page.reader, living(page))
    shown = [{**run, **page.autopsies.short(run)} for run in found]
    return {"runs": shown, "versions": calls.by_version(page.reader)}


def one_run(page: Page, run_id: str) -> dict[str, Any]:
    """Returns one run with its verdict, the calls that were in flight, and its health.

    Raises:
        WireError: raised as `not_found` when the store has no such run, and when its autopsy fails.
    """
    boxes = flights.boxes(page.settings.data_dir)
    run = lives.run_row(page.reader, run_id, {view.header.run_id for view in boxes if view.is_alive})
    if run is None:
        raise WireError("not_found", "the store has no such run any more")
    own = [view for view in boxes if view.header.run_id == run_id]
    flying = flights.flights(own) or flights.interrupted(page.reader, run_id)
    return {**run, **page.autopsies.whole(run), "in_flight": flying, "vitals": _vitals(page.reader, run, boxes)}


def doctor(page: Page) -> dict[str, Any]:
    """Runs all checks; returns their results, since when those that are not well are so, and what changed.

    Raises:
        HearthNetError: raised as by the checks' runner.
    """
    if not page.checks.can_run:
        said = "the checks are those of a node: hearthnet doctor, on its own machine"
        return {"results": None, "message": said, "ran_us": None, "changes": []}
    report = page.checks.now()
    news = page.checks.changes(report)
    since = {change.name: us_of(change.since) for change in news}
    return {
        "results": [{**check, "since_us": since.get(name)} for name, check in report.checks.items()],
        "message": None,
        "ran_us": us_of(report.ts),
        "changes": [
            {"name": change.name, "from": change.was, "to": change.status, "at_us": us_of(change.since)}
            for change in news
            if change.was is not None
        ],
    }


def otlp(page: Page, seq: int) -> dict[str, Any]:
    """Returns one trace as OTLP in JSON.

    Raises:
        WireError: raised as `not_found` when the ring has no such trace.
    """
    found = page.reader.recent(1, TraceFilter(seqs=(seq - 1, seq)))
    if not found:
        raise WireError("not_found", NO_TRACE)
    run_id = found[0].run_id
    return export_request(found[0], origins(page.reader, [run_id]).get(run_id) or Origin(run_id))


def catalogue(page: Page) -> dict[str, Any]:
    """Returns questions with their SQL, and the tables and views."""
    return {"questions": relations.questions(), "tables": relations.relations(page.reader)}


def trace(page: Page, seq: int) -> dict[str, Any]:
    """Returns one trace with what explains it.

    Raises:
        WireError: raised as `not_found` when the ring has no such trace.
    """
    found = one_trace(page.reader, seq)
    if found is None:
        raise WireError("not_found", NO_TRACE)
    return {**found, "run": lives.run_row(page.reader, found["trace"]["run_id"], living(page))}
