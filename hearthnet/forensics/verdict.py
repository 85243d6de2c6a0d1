"""Rules that find how a run ended. The strongest sign names the cause.

Each rule looks for one cause and returns its confidence and evidence. A specific cause that is merely possible comes
before the general one (`killed`), and other causes that fit the same signs are always listed: a SIGKILL, an `os._exit`
and an out-of-memory kill leave identical files.
No library fits: the signs are in files of our own format, and forensics imports only the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final

from hearthnet.constants import CRASH_LOGGER, IMPORTED
from hearthnet.forensics.evidence.cut_short import BUS_ERROR, CUT_SHORT
from hearthnet.forensics.evidence.kernel import is_fault
from hearthnet.forensics.evidence.runs import is_exit
from hearthnet.forensics.model import CONFIDENCES, Case, Entry, Run, Verdict, Vitals
from hearthnet.forensics.whose import like
from hearthnet.moments import duration, iso

__all__ = ["RESTART_LOOP_RUNS", "RESTART_LOOP_US", "judge", "unclean_runs_in_a_row"]

CLEAN: Final = "clean"
NOT_KILLED: Final = "none"  # the kernel's account: not for memory
RESTART_LOOP_RUNS: Final = 3
RESTART_LOOP_US: Final = 20 * 60_000_000  # as many unclean runs within this time are a restart loop
_NEAR_END_US: Final = 10_000_000  # an exception this close to the end may have caused it
_LOW_MEMORY_BYTES: Final = 32_000_000
_LOW_MEMORY_SHARE: Final = 0.03  # of the memory that the process held or could still get
_LOW_DISK_BYTES: Final = 1_000_000
_STUCK_S: Final = 2.0
_FRAMES: Final = 3
_STUCK: Final = "event loop stuck"
_UNSTUCK: Final = ("event loop responds again", "event loop answers again")  # the second: of older versions
_UNCAUGHT: Final = "uncaught exception"
_FATAL: Final = ("Fatal ", "Windows fatal")
_NOT_WRITTEN: Final = "telemetry cannot be written"
_WRITTEN: Final = "telemetry is written again"
_NO_MEMORY: Final = ("MemoryError", "Cannot allocate memory", "bad_alloc", "out of memory")
_NO_SPACE: Final = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_REBOOT_US: Final = 15 * 60_000_000  # after a longer pause the node may have died before the machine went down


@dataclass(frozen=True, slots=True)
class Sign:
    """The result of one rule: a cause, its confidence and its evidence."""

    cause: str
    confidence: str
    evidence: tuple[str, ...]
    alternatives: tuple[str, ...] = ()


Rule = Callable[[Case, Run], "Sign | None"]


def judge(case: Case) -> Verdict:
    """Returns how the case's run ended. Never certain if another cause could have left the same files."""
    run = case.run
    if run is None:
        return Verdict("unknown", "certain", ("no run is recorded in these files",), _missing(case, None))
    signs = [sign for rule in _rules_of(run) if (sign := rule(case, run)) is not None]
    # The general cause always comes last; with equal confidence the earlier rule wins.
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
        return (_exception_then_clean, _clean_stop)
    if run.end_reason == IMPORTED:
        return (_imported,)
    return (_fault, _exception, _out_of_memory, _loop_stuck, _disk_full, _power_loss, _restart_loop, _killed)


# --- runs that are alive or ended cleanly


def _running(case: Case, run: Run) -> Sign:
    # Seen from another container it is the lock, and the pid is that of its own.
    lines = [f"process {run.pid} is running: it holds the lock of its black box, or has its pid, boot and start time"]
    stall = _open_stall(case)
    if stall is not None:
        lines.append(f"its event loop has been stuck since {_iso(stall.ts_us)}{_stack_top(stall)}")
    return Sign("running", "certain", tuple(lines))


def _exception_then_clean(case: Case, run: Run) -> Sign | None:
    found = _uncaught(case, run)
    if found is None:
        return None
    lines = (_exception_line(found), f"it recorded its end at {_iso(run.ended_us)}")
    cause = _cause_of_exception(found)
    return Sign(cause, "certain", lines) if cause == "exception" else Sign(cause, "likely", lines, ("exception",))


def _clean_stop(case: Case, run: Run) -> Sign | None:
    if _uncaught(case, run) is not None:
        return None
    lines = (*_exits(case, run), f"it recorded its end at {_iso(run.ended_us)}")
    return Sign("clean_stop", "certain", lines)


def _exits(case: Case, run: Run) -> Iterable[str]:
    """Yields how the program ended itself, where that was within a trace: the status of a process is in no file."""
    found = (entry for entry in reversed(case.signs or case.entries) if is_exit(entry) and entry.run_id == run.run_id)
    for entry in islice(found, 1):
        at_us = entry.ts_us + int((entry.duration_ms or 0.0) * 1_000)
        if abs((run.ended_us or at_us) - at_us) <= _NEAR_END_US:
            yield f"at {_iso(at_us)} it left {entry.name} by sys.exit: {entry.text.removeprefix('SystemExit: ')}"


def _imported(case: Case, run: Run) -> Sign:
    """Returns what an export knows of an end: nothing. An exception near the last record may have been survived."""
    lines = [
        f"its records were imported, the last one of {_iso(run.ended_us)}; an export does not have the end of a run"
    ]
    found = _uncaught(case, run)
    return Sign("imported", "certain", (*lines, *([] if found is None else [_exception_line(found)])))


# --- runs that recorded no end


def _fault(_: Case, run: Run) -> Sign | None:
    if not run.fault or not run.fault.strip():
        return _fault_in_kernel(run)
    lines = run.fault.strip().splitlines()
    fatal = next((line for line in lines if line.startswith(_FATAL)), None)
    line = f"faulthandler wrote: {fatal or lines[0]}"
    if fatal is None:  # stacks may also have been dumped on request
        return Sign("native_fault", "possible", (line,), ("killed",))
    if any(word in run.fault for word in _NO_MEMORY):
        return Sign("out_of_memory", "likely", (line,), ("native_fault",))
    return Sign("native_fault", "certain", (line, *_bus_error(fatal, lines), *_frames(run.fault)))


def _fault_in_kernel(run: Run) -> Sign | None:
    """Returns the sign in the kernel's log: faulthandler is enabled by a node alone, not by a program."""
    lines = () if run.kernel is None else tuple(filter(is_fault, run.kernel.lines))
    return Sign("native_fault", "likely", lines, ("killed",)) if lines else None


def _bus_error(fatal: str, lines: list[str]) -> Iterable[str]:
    """Yields the files that were cut short, if that is what a bus error is from."""
    if BUS_ERROR not in fatal:
        return
    files = [line.removeprefix(CUT_SHORT) for line in lines if line.startswith(CUT_SHORT)]
    yield from (f"a file that was mapped was cut short: {file}" for file in files)
    if not files:
        yield "a file that was mapped was cut short or could not be read, or its disk was full; none is too short now"


def _frames(fault: str) -> Iterable[str]:
    """Yields the innermost frames of the failed thread: the first may be a library's own."""
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
    cause = _cause_of_exception(found)
    others = ("killed",) if cause == "exception" else ("exception",)
    return Sign(cause, "likely", (_exception_line(found),), others)


def _cause_of_exception(found: Entry) -> str:
    """Returns the cause behind an exception: a failed allocation or write has one of its own."""
    text = f"{found.text} {found.exc or ''}"
    for cause, words in (("out_of_memory", _NO_MEMORY), ("disk_full", _NO_SPACE)):
        if any(word in text for word in words):
            return cause
    return "exception"


def _out_of_memory(_: Case, run: Run) -> Sign | None:
    felt, kernel = _short_of_memory(run), run.kernel
    if kernel is None:
        return felt
    if kernel.confidence == NOT_KILLED:  # it may have been short of memory all the same
        return None
    lines = kernel.lines + (felt.evidence if felt else ())
    confidences = (kernel.confidence, felt.confidence if felt else kernel.confidence)
    confidence = min(confidences, key=CONFIDENCES.index)
    return Sign("out_of_memory", confidence, lines, () if confidence == "certain" else ("killed",))


def _short_of_memory(run: Run) -> Sign | None:
    """Returns the sign in the samples; None where enough memory was left."""
    known = [vitals for vitals in run.vitals if vitals.memory_left_bytes is not None and vitals.rss_bytes is not None]
    if not known:
        return None
    last = known[-1]
    rss, left = last.rss_bytes or 0, last.memory_left_bytes or 0
    line = f"at {_iso(last.ts_us)} it held {_mb(rss)} and {_mb(left)} were left{_growth(known)}"
    if left < max(_LOW_MEMORY_BYTES, _LOW_MEMORY_SHARE * (rss + left)):
        # If other processes filled the memory, the kernel may have killed any of them.
        is_own_doing = rss > left and rss > (known[0].rss_bytes or 0)
        return Sign("out_of_memory", "likely" if is_own_doing else "possible", (line,), ("killed",))
    if _would_run_out(known, run):
        return Sign("out_of_memory", "possible", (line,), ("killed",))
    return None


def _would_run_out(known: list[Vitals], run: Run) -> bool:
    """Returns True if memory would have run out before the end at the rate of the last two samples."""
    if len(known) < 2:
        return False
    before, last = known[-2], known[-1]
    per_us = ((before.memory_left_bytes or 0) - (last.memory_left_bytes or 0)) / max(1, last.ts_us - before.ts_us)
    # The process died before its next sample was due.
    until = max(run.last_seen_us or 0, last.ts_us + (last.ts_us - before.ts_us))
    return per_us > 0 and per_us * (until - last.ts_us) >= (last.memory_left_bytes or 0)


def _growth(known: list[Vitals]) -> str:
    first, last = known[0], known[-1]
    grown = (last.rss_bytes or 0) - (first.rss_bytes or 0)
    seconds = (last.ts_us - first.ts_us) / 1e6
    return f"; it had grown by {_mb(grown)} in {duration(seconds)}" if grown > 0 and seconds > 0 else ""


def _loop_stuck(case: Case, run: Run) -> Sign | None:
    stall = _open_stall(case)
    if stall is not None:
        line = f"the event loop was stuck from {_iso(stall.ts_us)} on and did not recover{_stack_top(stall)}"
        return Sign("loop_stuck", "likely", (line,), ("killed",))
    lag = run.vitals[-1].loop_lag_s if run.vitals else None
    if lag is None or lag < _STUCK_S:
        return None
    line = f"at {_iso(run.vitals[-1].ts_us)} the event loop had been stuck for {lag:.1f} s"
    return Sign("loop_stuck", "possible", (line,), ("killed",))


def _open_stall(case: Case) -> Entry | None:
    """Returns the record of a stall from which the loop did not recover, or None."""
    for entry in reversed(_records(case)):
        if entry.text in _UNSTUCK:
            return None
        if entry.text == _STUCK:
            return entry
    return None


def _stack_top(stall: Entry) -> str:
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
    # A volume goes to another machine with its program, in a cluster within seconds.
    line = f"the next run, at {_iso(after.started_us)}, was in another boot: of this machine, or of another one"
    confidence = "likely" if 0 <= gone_us <= _REBOOT_US else "possible"
    return Sign("power_loss", confidence, (line,), ("killed",))


def _restart_loop(case: Case, run: Run) -> Sign | None:
    unclean = unclean_runs_in_a_row(case.runs, run)
    if len(unclean) < RESTART_LOOP_RUNS:
        return None
    before = duration((run.started_us - unclean[-1].started_us) / 1e6)
    line = f"{len(unclean)} runs in a row ended without a clean stop, the first began {before} before this one"
    return Sign("restart_loop", "possible", (line,), ("killed",))


def unclean_runs_in_a_row(runs: list[Run], run: Run) -> list[Run]:
    """Returns `run` and the unclean runs of its program directly before it within `RESTART_LOOP_US`, newest first.

    Args:
        runs: newest first.
        run: the last run to count.
    """
    found: list[Run] = []
    own = like(runs, run)  # a backup script that ends well says nothing about the node
    for earlier in own[_index_of(own, run) :]:
        if earlier.end_reason == CLEAN or earlier.is_alive or run.started_us - earlier.started_us > RESTART_LOOP_US:
            break
        found.append(earlier)
    return found


def _killed(case: Case, run: Run) -> Sign:
    after = _run_after(case, run)
    lines = [f"it recorded no end; it was last seen at {_iso(run.last_seen_us or run.started_us)}"]
    # An unreadable fault file may hold a native fault.
    is_unread = any(source.kind == "fault" and source.state == "unreadable" for source in case.sources)
    fault = ("native_fault",) if is_unread else ()
    is_ruled_out = run.kernel is not None and run.kernel.confidence == NOT_KILLED
    memory = () if is_ruled_out else ("out_of_memory",)
    if run.kernel is not None and is_ruled_out:
        lines += run.kernel.lines
    if run.is_alive is False or (after is not None and run.boot_id and after.boot_id == run.boot_id):
        lines.append("the machine stayed up: same boot before and after")
        return Sign("killed", "possible" if fault else "likely", tuple(lines), (*memory, *fault))
    others = (*memory, "power_loss") if after is not None else (*memory, "power_loss", "running")
    return Sign("killed", "possible", tuple(lines), (*others, *fault))


# --- what the rules share


def _run_after(case: Case, run: Run) -> Run | None:
    """Returns the first run that began when this one was over: the next of the node, or of any program."""
    end_us = run.ended_us or run.last_seen_us or run.started_us
    later = case.runs[: _index_of(case.runs, run)]
    # Nodes do not overlap, so the next one came after this one even if the clock was set back in between.
    return next((other for other in reversed(later) if _is_next(run, other) or other.started_us >= end_us), None)


def _is_next(run: Run, other: Run) -> bool:
    return run.is_node and other.is_node


def _index_of(runs: list[Run], run: Run) -> int:
    return next((index for index, other in enumerate(runs) if other.run_id == run.run_id), 0)


def _records(case: Case) -> list[Entry]:
    """Returns the run's log records that may be signs, oldest first."""
    run_id = None if case.run is None else case.run.run_id
    return [entry for entry in case.signs or case.entries if entry.kind == "log" and entry.run_id in (run_id, None)]


def _uncaught(case: Case, run: Run) -> Entry | None:
    end_us = run.ended_us or run.last_seen_us or run.started_us
    for entry in reversed(_records(case)):
        if (entry.name, entry.text) == (CRASH_LOGGER, _UNCAUGHT) and abs(end_us - entry.ts_us) <= _NEAR_END_US:
            return entry
    return None


def _exception_line(entry: Entry) -> str:
    last = (entry.exc or "").strip().splitlines()
    return f"at {_iso(entry.ts_us)} an uncaught exception was logged: {last[-1] if last else entry.text}"


def _missing(case: Case, run: Run | None) -> tuple[str, ...]:
    lines = [
        f"{source.path.name} is {_NOT_WHOLE[source.state]}" for source in case.sources if source.state in _NOT_WHOLE
    ]
    if run is None or run.end_reason in (CLEAN, IMPORTED) or run.is_alive:
        return tuple(lines)
    if not run.has_box and run.end_reason is None:
        lines.append("uncommitted records: its black box is missing")
    if not run.vitals:
        lines.append("memory and disk space before the end: no vitals were kept")
    if run.is_alive is None and not _run_after(case, run):
        lines.append("whether it was still running when the files were copied")
    if run.kernel is None or run.kernel.confidence not in ("certain", NOT_KILLED):
        lines.append("whether the kernel killed it for memory: as root, run this again, or see journalctl -k or dmesg")
    return tuple(lines)


_NOT_WHOLE: Final = {
    "damaged": "damaged",
    "missing": "missing",
    "unreadable": "unreadable",
    "foreign": "no file of HearthNet",
}


def _iso(us: int | None) -> str:
    return iso(us) or ("an unknown time" if us is None else f"{us} us")


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
