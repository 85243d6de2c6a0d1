"""The state of a stalled event loop, read from another thread: stack, tasks, traces in flight, CPU time.

Only names and locations, no source lines and no values: nothing that a caller sent. All of it fits into one row of
`logs`, where the largest value, the stack, would be cut first.

The kernel's scheduler keeps for each thread how long it was on a CPU, and how long it waited for one
(`/proc/self/task/<id>/schedstat`). An unfinished wait is not in them; the thread's state shows it. All of this
is known on Linux only.

    with 10 frames, 3 tasks and 5 traces in flight 0.4 ms, half of it the table of the black box; a reading of CPU
    time 16 us
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

import orjson

from hearthnet.forensics.box import InFlight
from hearthnet.observability.records.record import safe_text
from hearthnet.observability.runtime import runtime

__all__ = [
    "BLOCKED",
    "STARVED",
    "Use",
    "cause_of",
    "is_runnable",
    "spans_in_flight",
    "stack_of_thread",
    "suspended_s",
    "tasks_of",
    "use_of",
]

T = TypeVar("T")
MAX_FRAMES: Final = 30
MAX_TASKS: Final = 50
_MAX_CHAIN: Final = 100  # of coroutines that await each other
# Together under the 2 KiB that a row has for its fields, numbers and names of keys included.
_STACK_BYTES: Final = 900
_TASKS_BYTES: Final = 500
_SPANS_BYTES: Final = 350
_TURN: Final = getattr(getattr(asyncio.BaseEventLoop, "_run_once", None), "__code__", None)  # one turn of the loop
_FRAME_BYTES: Final = 200
_TASK_BYTES: Final = 300
_PATH_PARTS: Final = 2  # enough to know the file by


def stack_of_thread(ident: int) -> list[str]:
    """Returns a thread's stack, innermost first, each `file:line function`; empty for one that has ended.

    Without the frames of the event loop itself, which are always the same.
    """
    frame: FrameType | None = sys._current_frames().get(ident)  # noqa: SLF001  # the documented way
    found: list[str] = []
    while frame is not None and len(found) < MAX_FRAMES:
        location = _location(frame.f_code, frame.f_lineno)
        found.append(safe_text(f"{location} {frame.f_code.co_qualname}", _FRAME_BYTES))
        frame = frame.f_back
        if frame is not None and frame.f_code is _TURN:
            break
    return _fitting(found, _STACK_BYTES)


def _location(code: CodeType, line: int | None) -> str:
    path = code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(path[-_PATH_PARTS:])}:{line or code.co_firstlineno}"


def tasks_of(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Returns the tasks of a loop, the running one first: name, coroutine, and where that waits."""
    try:
        tasks = asyncio.all_tasks(loop)
    except RuntimeError:  # tasks kept changing meanwhile: so the loop is no longer stuck
        return []
    running = asyncio.current_task(loop)
    ordered = sorted(tasks, key=lambda task: (task is not running, task.get_name()))
    kept = _fitting([_task(task, task is running) for task in ordered[:MAX_TASKS]], _TASKS_BYTES)
    return [*kept, f"[{len(ordered) - len(kept)} more]"] if len(kept) < len(ordered) else kept


def _task(task: asyncio.Task[Any], is_running: bool) -> str:
    coroutine: Any = task.get_coro()
    name = getattr(coroutine, "__qualname__", type(coroutine).__name__)
    doing = "runs" if is_running else f"waits at {_waits_at(coroutine)}"
    return safe_text(f"{task.get_name()} {name} {doing}", _TASK_BYTES)


def _waits_at(coroutine: Any) -> str:
    """Returns where the innermost coroutine of a chain of awaits waits."""
    location = "its start"
    for _ in range(_MAX_CHAIN):
        frame = _first_attribute(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if not isinstance(frame, FrameType):
            break
        location = _location(frame.f_code, frame.f_lineno)
        coroutine = _first_attribute(coroutine, "cr_await", "gi_yieldfrom", "ag_await")
    return location


def _first_attribute(owner: Any, *names: str) -> Any:
    """Returns the first attribute that exists: coroutines and generators name theirs differently."""
    return next((found for name in names if (found := getattr(owner, name, None)) is not None), None)


def spans_in_flight() -> list[dict[str, Any]]:
    """Returns the traces that have begun and not ended, oldest first, each with its innermost open span.

    Read from the black box; empty without one.
    """
    box = runtime.recorder.box
    if box is None:
        return []
    now_ns = monotonic_ns()
    found = [_in_flight(entry, now_ns) for entry in box.in_flight()]
    kept = _fitting(found, _SPANS_BYTES)
    return [*kept, {"more": len(found) - len(kept)}] if len(kept) < len(found) else kept


def _in_flight(entry: InFlight, now_ns: int) -> dict[str, Any]:
    return {
        "trace_id": entry.trace_id,
        "capability": entry.capability,
        "span": entry.span,
        "age_ms": round((now_ns - entry.started_ns) / 1e6, 1),
    }


def _fitting(items: list[T], limit_bytes: int) -> list[T]:
    """Returns the first items, as many as fit into so many bytes of JSON."""
    size = 0
    for location, item in enumerate(items):
        size += len(orjson.dumps(item)) + 1
        if size > limit_bytes:
            return items[:location]
    return items


BLOCKED: Final = "blocked"  # the loop's own code holds it: in a system call, or computing
STARVED: Final = "starved"  # the machine had no CPU for it
SLEEPING: Final = "sleeping"
COMPUTING: Final = "computing"
WAITING: Final = "waiting"  # for a CPU
UNKNOWN: Final = "unknown"
# A timer and a busy CPU make any wait this late.
SLACK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Use:
    """Seconds that a thread has spent on a CPU, and waiting for one, since it began."""

    cpu_s: float = 0.0
    waited_s: float = 0.0

    def since(self, before: Use) -> Use:
        """Returns what was spent after `before`."""
        return Use(max(0.0, self.cpu_s - before.cpu_s), max(0.0, self.waited_s - before.waited_s))


def use_of(thread: int) -> Use | None:
    """Returns what a thread of this process has spent, by its native id; None if unknown."""
    try:
        cpu_ns, waited_ns = Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[:2]
    except (OSError, ValueError):  # not Linux, a kernel without these figures, or the thread has ended
        return None
    return Use(int(cpu_ns) / 1e9, int(waited_ns) / 1e9)


def is_runnable(thread: int) -> bool:
    """Returns whether a thread of this process is on a CPU or waits for one now; False if unknown."""
    try:
        status = Path(f"/proc/self/task/{thread}/stat").read_bytes()
    except OSError:
        return False
    # The name, in brackets, may hold anything; the state is the first field behind it.
    return status[status.rfind(b")") + 2 :][:1] == b"R"


def suspended_s(elapsed_s: float, wanted_s: float, used: Use | None, process_cpu_s: float) -> float:
    """Returns how much of a wait the whole process did not run: stop signal, debugger, suspended machine.

    A wait is late for other reasons too: the thread that waited got no CPU, or another held the interpreter's lock and
    computed. The rest of the delay was no work. A library that holds the lock and sleeps looks the same.

    Args:
        elapsed_s: how long the wait took.
        wanted_s: how long it should have taken.
        used: what the thread that waited spent meanwhile.
        process_cpu_s: what all threads together spent on CPUs meanwhile.
    """
    explained_s = (0.0 if used is None else used.waited_s) + process_cpu_s
    return max(0.0, elapsed_s - wanted_s - SLACK_S - explained_s)


def cause_of(stuck_s: float, used: Use | None, runnable_share: float, patience_s: float) -> tuple[str, str]:
    """Returns why a loop is stuck, `BLOCKED` or `STARVED`, and what its thread did.

    Args:
        stuck_s: for how long.
        used: the CPU time of its thread meanwhile; None: unknown.
        runnable_share: the share of checks in which it was on a CPU or waited for one.
        patience_s: computing this long blocks a loop, however busy the CPU.
    """
    if used is None:
        return BLOCKED, UNKNOWN
    waited_s = used.waited_s
    if runnable_share > 0.5:  # the sums lack an unfinished wait
        waited_s = max(waited_s, stuck_s - used.cpu_s)
    if used.cpu_s + waited_s < stuck_s / 2:
        return BLOCKED, SLEEPING
    if used.cpu_s >= min(waited_s, patience_s):
        return BLOCKED, COMPUTING
    return STARVED, WAITING
