"""Judges how a run ended: every sign that the files have is weighed, the strongest names the cause.

Each rule looks for one cause and says how sure it is, with the lines that it rests on. A specific cause that is only
possible stands before the general one (`killed`), and what else the same signs allow is always named: of a SIGKILL, an
`os._exit` and the kernel's killing for memory, files hold the same trace, which is none.
Ours because the signs are in files of our own, and because forensics import the standard library alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Final

from hearthnet.forensics.model import CONFIDENCES, Case, Entry, Run, Verdict, Vitals

__all__ = ["RESTART_LOOP_DEATHS", "RESTART_LOOP_US", "deaths_in_a_row", "judge"]

CLEAN: Final = "clean"
RESTART_LOOP_DEATHS: Final = 3
RESTART_LOOP_US: Final = 20 * 60_000_000  # so many deaths within this are a loop, not bad luck
_NEAR_END_US: Final = 10_000_000  # what happened so shortly before the end may have caused it
_LOW_MEMORY_BYTES: Final = 32_000_000
_LOW_MEMORY_SHARE: Final = 0.03  # of what the process had and could still get
_LOW_DISK_BYTES: Final = 1_000_000
_STUCK_S: Final = 2.0
_FRAMES: Final = 3
_STUCK: Final = "event loop stuck"
_ANSWERS: Final = "event loop answers again"
_UNCAUGHT: Final = "uncaught exception"
_CAPTURE: Final = "hearthnet.observability.capture"  # who says that; of others it would be a word like any other
_FATAL: Final = ("Fatal ", "Windows fatal")
_NOT_WRITTEN: Final = "telemetry cannot be written"
_WRITTEN: Final = "telemetry is written again"
_NO_MEMORY: Final = ("MemoryError", "Cannot allocate memory", "bad_alloc", "out of memory")
_NO_SPACE: Final = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_REBOOT_US: Final = 15 * 60_000_000  # a machine that comes back later was down, or the node was dead before it


@dataclass(frozen=True, slots=True)
class Sign:
    """What one rule found: a cause, how sure, and the lines that it rests on."""

    cause: str
    confidence: str
    evidence: tuple[str, ...]
    alternatives: tuple[str, ...] = ()


Rule = Callable[[Case, Run], "Sign | None"]


def judge(case: Case) -> Verdict:
    """Returns how the case's run ended. Never certain where the same files could have come about otherwise."""
    run = case.run
    if run is None:
        return Verdict("unknown", "certain", ("no run is recorded in these files",), _missing(case, None))
    signs = [sign for rule in _rules_of(run) if (sign := rule(case, run)) is not None]
    # The general cause is last, whatever else there is; of two that are as sure the one whose rule stands first.
    signs.sort(key=lambda sign: (sign.cause == "killed", CONFIDENCES.index(sign.confidence)))
    best = signs[0]
    lines = dict.fromkeys(line for sign in signs for line in sign.evidence)
    others = dict.fromkeys(sign.cause for sign in signs[1:])
    others.update(dict.fromkeys(cause for sign in signs for cause in sign.alternatives))
    others.pop(best.cause, None)
    alternatives = () if best.confidence == "certain" else tuple(others)
    return Verdict(best.cause, best.confidence, tuple(lines), _missing(case, run), alternatives)


def _rules_of(run: Run) -> tuple[Rule, ...]:
    if run.is_alive:
        return (_running,)
    if run.end_reason == CLEAN:
        return (_exception_in_order, _clean_stop)
    return (_fault, _exception, _out_of_memory, _loop_stuck, _disk_full, _power_loss, _restart_loop, _killed)


# --- runs that live, or ended in order


def _running(case: Case, run: Run) -> Sign:
    lines = [f"process {run.pid} runs: its number, its boot and its start agree with the black box"]
    stall = _open_stall(case)
    if stall is not None:
        lines.append(f"its event loop has been stuck since {_iso(stall.ts_us)}{_where(stall)}")
    return Sign("running", "certain", tuple(lines))


def _exception_in_order(case: Case, run: Run) -> Sign | None:
    found = _uncaught(case, run)
    if found is None:
        return None
    lines = (_told(found), f"the store was closed in order at {_iso(run.ended_us)}")
    cause = _cause_behind(found)
    return Sign(cause, "certain", lines) if cause == "exception" else Sign(cause, "likely", lines, ("exception",))


def _clean_stop(case: Case, run: Run) -> Sign | None:
    if _uncaught(case, run) is not None:
        return None
    return Sign("clean_stop", "certain", (f"the store was closed in order at {_iso(run.ended_us)}",))


# --- runs that wrote no end


def _fault(_: Case, run: Run) -> Sign | None:
    if not run.fault or not run.fault.strip():
        return None
    lines = run.fault.strip().splitlines()
    fatal = next((line for line in lines if line.startswith(_FATAL)), None)
    line = f"faulthandler wrote its last words: {fatal or lines[0]}"
    if fatal is None:  # stacks that somebody asked for stand there too
        return Sign("native_fault", "possible", (line,), ("killed",))
    if any(word in run.fault for word in _NO_MEMORY):
        return Sign("out_of_memory", "likely", (line,), ("native_fault",))
    # A file that is mapped into memory on a disk that is full ends the same way.
    return Sign("native_fault", "certain", (line, *_frames(run.fault)))


def _frames(fault: str) -> Iterable[str]:
    """Yields the innermost frames of the thread that failed: the first may be a library's own."""
    lines = [line.strip() for line in fault.splitlines()]
    start = next((at for at, line in enumerate(lines) if line.startswith("Current thread")), None)
    if start is None:
        start = next((at for at, line in enumerate(lines) if line.startswith("Thread")), len(lines))
    frames = takewhile(lambda line: line.startswith("File"), lines[start + 1 :])
    for number, frame in enumerate(islice(frames, _FRAMES)):
        yield f"it was in {frame}" if number == 0 else f"called from {frame}"


def _exception(case: Case, run: Run) -> Sign | None:
    found = _uncaught(case, run)
    if found is None:
        return None
    cause = _cause_behind(found)
    others = ("killed",) if cause == "exception" else ("exception",)
    return Sign(cause, "likely", (_told(found),), others)


def _cause_behind(found: Entry) -> str:
    """Returns what an exception tells of: an allocation or a write that failed is more than an exception."""
    said = f"{found.text} {found.exc or ''}"
    for cause, words in (("out_of_memory", _NO_MEMORY), ("disk_full", _NO_SPACE)):
        if any(word in said for word in words):
            return cause
    return "exception"


def _out_of_memory(_: Case, run: Run) -> Sign | None:
    known = [vitals for vitals in run.vitals if vitals.memory_left_bytes is not None and vitals.rss_bytes is not None]
    if not known:
        return None
    last = known[-1]
    rss, left = last.rss_bytes or 0, last.memory_left_bytes or 0
    line = f"at {_iso(last.ts_us)} it held {_mb(rss)} and {_mb(left)} were left{_growth(known)}"
    if left < max(_LOW_MEMORY_BYTES, _LOW_MEMORY_SHARE * (rss + left)):
        # Of a machine that others had filled, the kernel may have picked any.
        is_of_its_own = rss > left and rss > (known[0].rss_bytes or 0)
        return Sign("out_of_memory", "likely" if is_of_its_own else "possible", (line,), ("killed",))
    if _would_run_out(known, run):
        return Sign("out_of_memory", "possible", (line,), ("killed",))
    return None


def _would_run_out(known: list[Vitals], run: Run) -> bool:
    """Tells whether the memory left would have been used up before the end, had it gone on as at the last samples."""
    if len(known) < 2:
        return False
    before, last = known[-2], known[-1]
    per_us = ((before.memory_left_bytes or 0) - (last.memory_left_bytes or 0)) / max(1, last.ts_us - before.ts_us)
    # The death fell somewhere before the sample that is missing.
    until = max(run.last_seen_us or 0, last.ts_us + (last.ts_us - before.ts_us))
    return per_us > 0 and per_us * (until - last.ts_us) >= (last.memory_left_bytes or 0)


def _growth(known: list[Vitals]) -> str:
    first, last = known[0], known[-1]
    grown = (last.rss_bytes or 0) - (first.rss_bytes or 0)
    seconds = (last.ts_us - first.ts_us) / 1e6
    return f"; it had grown by {_mb(grown)} in {seconds:.0f} s" if grown > 0 and seconds > 0 else ""


def _loop_stuck(case: Case, run: Run) -> Sign | None:
    stall = _open_stall(case)
    if stall is not None:
        line = f"the event loop was stuck from {_iso(stall.ts_us)} on and did not answer again{_where(stall)}"
        return Sign("loop_stuck", "likely", (line,), ("killed",))
    lag = run.vitals[-1].loop_lag_s if run.vitals else None
    if lag is None or lag < _STUCK_S:
        return None
    line = f"at {_iso(run.vitals[-1].ts_us)} the event loop had not answered for {lag:.1f} s"
    return Sign("loop_stuck", "possible", (line,), ("killed",))


def _open_stall(case: Case) -> Entry | None:
    """Returns the record of a stall after which the loop did not answer again."""
    for entry in reversed(_records(case)):
        if entry.text == _ANSWERS:
            return None
        if entry.text == _STUCK:
            return entry
    return None


def _where(stall: Entry) -> str:
    stack = stall.extras.get("stack")
    if isinstance(stack, list) and stack:
        return f", in {stack[0]}"
    return f", in {stack.strip().splitlines()[0]}" if isinstance(stack, str) and stack.strip() else ""


def _disk_full(case: Case, run: Run) -> Sign | None:
    lines = []
    free = run.vitals[-1].disk_free_bytes if run.vitals else None
    if free is not None and free < _LOW_DISK_BYTES:
        lines.append(f"at {_iso(run.vitals[-1].ts_us)} {_mb(free)} were free on the disk of the store")
    for entry in reversed(_records(case)):
        if entry.text == _WRITTEN:
            break
        if entry.text == _NOT_WRITTEN and entry.extras.get("reason") == "disk_full":
            lines.append(f"from {_iso(entry.ts_us)} on nothing could be stored: the disk was full")
            break
    return Sign("disk_full", "possible", tuple(lines), ("killed",)) if lines else None


def _power_loss(case: Case, run: Run) -> Sign | None:
    after = _run_after(case, run)
    if after is None or not run.boot_id or not after.boot_id or after.boot_id == run.boot_id:
        return None
    gone_us = after.started_us - (run.last_seen_us or run.started_us)
    line = f"the next run, at {_iso(after.started_us)}, was in another boot of the machine"
    confidence = "likely" if 0 <= gone_us <= _REBOOT_US else "possible"
    return Sign("power_loss", confidence, (line,), ("killed",))


def _restart_loop(case: Case, run: Run) -> Sign | None:
    deaths = deaths_in_a_row(case.runs, run)
    if len(deaths) < RESTART_LOOP_DEATHS:
        return None
    minutes = (run.started_us - deaths[-1].started_us) / 60e6
    line = f"{len(deaths)} runs in a row ended without a clean stop, the first began {minutes:.0f} min before this one"
    return Sign("restart_loop", "possible", (line,), ("killed",))


def deaths_in_a_row(runs: list[Run], run: Run) -> list[Run]:
    """Returns `run` and the runs before it that ended as badly, within the window of a restart loop; newest first.

    Args:
        runs: newest first.
        run: the last of them that counts.
    """
    found: list[Run] = []
    for earlier in runs[_place(runs, run) :]:
        if earlier.end_reason == CLEAN or earlier.is_alive or run.started_us - earlier.started_us > RESTART_LOOP_US:
            break
        found.append(earlier)
    return found


def _killed(case: Case, run: Run) -> Sign:
    after = _run_after(case, run)
    lines = [f"it wrote no end; its last sign of life was at {_iso(run.last_seen_us or run.started_us)}"]
    # Last words that nobody could read may have been written.
    is_unread = any(source.kind == "fault" and source.state == "unreadable" for source in case.sources)
    fault = ("native_fault",) if is_unread else ()
    if run.is_alive is False or (after is not None and run.boot_id and after.boot_id == run.boot_id):
        lines.append("the machine stayed up: it was the same boot before and after")
        return Sign("killed", "possible" if fault else "likely", tuple(lines), ("out_of_memory", *fault))
    others = ("out_of_memory", "power_loss") if after is not None else ("out_of_memory", "power_loss", "running")
    return Sign("killed", "possible", tuple(lines), (*others, *fault))


# --- what the rules share


def _run_after(case: Case, run: Run) -> Run | None:
    place = _place(case.runs, run)
    return case.runs[place - 1] if place > 0 else None


def _place(runs: list[Run], run: Run) -> int:
    return next((at for at, other in enumerate(runs) if other.run_id == run.run_id), 0)


def _records(case: Case) -> list[Entry]:
    """Returns the log records of the judged run, oldest first: those that tell something, whatever was asked for."""
    run_id = None if case.run is None else case.run.run_id
    return [entry for entry in case.signs or case.entries if entry.kind == "log" and entry.run_id in (run_id, None)]


def _uncaught(case: Case, run: Run) -> Entry | None:
    end_us = run.ended_us or run.last_seen_us or run.started_us
    for entry in reversed(_records(case)):
        if (entry.name, entry.text) == (_CAPTURE, _UNCAUGHT) and abs(end_us - entry.ts_us) <= _NEAR_END_US:
            return entry
    return None


def _told(entry: Entry) -> str:
    last = (entry.exc or "").strip().splitlines()
    return f"at {_iso(entry.ts_us)} an exception was logged that nobody caught: {last[-1] if last else entry.text}"


def _missing(case: Case, run: Run | None) -> tuple[str, ...]:
    lines = [f"{source.path.name} is {source.state}" for source in case.sources if source.state in _NOT_WHOLE]
    if run is None or run.end_reason == CLEAN or run.is_alive:
        return tuple(lines)
    if not run.has_box and run.end_reason is None:
        lines.append("its black box is not among the files: what was not committed is not known")
    if not run.vitals:
        lines.append("no vitals were kept: memory and disk shortly before the end are not known")
    if run.is_alive is None and not _run_after(case, run):
        lines.append("whether it still ran when the files were copied, and what the machine did then")
    lines.append("the kernel's log would tell a kill for memory: journalctl -k, or dmesg")
    return tuple(lines)


_NOT_WHOLE: Final = ("damaged", "missing", "unreadable", "foreign")


def _iso(us: int | None) -> str:
    if us is None:
        return "an unknown time"
    try:
        return datetime.fromtimestamp(us / 1e6, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):  # a number that no clock shows
        return f"{us} us"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
