"""What an event loop is at, seen from another thread: its stack, its tasks, the traces in flight, and its CPU time.

Names and places alone, no source lines and no values: nothing that a caller has sent. All of it together fits into one
row of `logs`, where the largest value would give way first, and that is the stack.

The kernel's scheduler keeps for each thread how long it was on a CPU, and how long it waited for one
(`/proc/self/task/<id>/schedstat`). A wait that is not over yet is not in them: the thread's state tells of it.
Elsewhere than on Linux nothing of this is known.

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
    """Returns where a thread is, innermost first, each `file:line function`; empty for one that has ended.

    Down to what the loop runs: the loop itself is below it, always the same.
    """
    frame: FrameType | None = sys._current_frames().get(ident)  # noqa: SLF001  # the documented way
    found: list[str] = []
    while frame is not None and len(found) < MAX_FRAMES:
        place = _place(frame.f_code, frame.f_lineno)
        found.append(safe_text(f"{place} {frame.f_code.co_qualname}", _FRAME_BYTES))
        frame = frame.f_back
        if frame is not None and frame.f_code is _TURN:
            break
    return _within(found, _STACK_BYTES)


def _place(code: CodeType, line: int | None) -> str:
    path = code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(path[-_PATH_PARTS:])}:{line or code.co_firstlineno}"


def tasks_of(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Returns the tasks of a loop, the one that runs first: its name, its coroutine, and where that waits."""
    try:
        tasks = asyncio.all_tasks(loop)
    except RuntimeError:  # they came and went all the while that one looked: so the loop is not stuck any more
        return []
    running = asyncio.current_task(loop)
    ordered = sorted(tasks, key=lambda task: (task is not running, task.get_name()))
    kept = _within([_task(task, task is running) for task in ordered[:MAX_TASKS]], _TASKS_BYTES)
    return [*kept, f"[{len(ordered) - len(kept)} more]"] if len(kept) < len(ordered) else kept


def _task(task: asyncio.Task[Any], is_running: bool) -> str:
    coroutine: Any = task.get_coro()
    name = getattr(coroutine, "__qualname__", type(coroutine).__name__)
    doing = "runs" if is_running else f"waits at {_waits_at(coroutine)}"
    return safe_text(f"{task.get_name()} {name} {doing}", _TASK_BYTES)


def _waits_at(coroutine: Any) -> str:
    """Returns where the innermost of coroutines that await each other waits."""
    place = "its start"
    for _ in range(_MAX_CHAIN):
        frame = _first(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if not isinstance(frame, FrameType):
            break
        place = _place(frame.f_code, frame.f_lineno)
        coroutine = _first(coroutine, "cr_await", "gi_yieldfrom", "ag_await")
    return place


def _first(owner: Any, *names: str) -> Any:
    """Returns the first of these attributes that is there: coroutines and generators have names of their own."""
    return next((found for name in names if (found := getattr(owner, name, None)) is not None), None)


def spans_in_flight() -> list[dict[str, Any]]:
    """Returns the traces that have begun and not ended, oldest first, each with its innermost open span.

    From the black box of this process; without one nothing is known.
    """
    box = runtime.recorder.box
    if box is None:
        return []
    now_ns = monotonic_ns()
    found = [_in_flight(entry, now_ns) for entry in box.in_flight()]
    kept = _within(found, _SPANS_BYTES)
    return [*kept, {"more": len(found) - len(kept)}] if len(kept) < len(found) else kept


def _in_flight(entry: InFlight, now_ns: int) -> dict[str, Any]:
    return {
        "trace_id": entry.trace_id,
        "capability": entry.capability,
        "span": entry.span,
        "age_ms": round((now_ns - entry.started_ns) / 1e6, 1),
    }


def _within(items: list[T], limit_bytes: int) -> list[T]:
    """Returns the first items, as many as fit into so many bytes of JSON."""
    size = 0
    for place, item in enumerate(items):
        size += len(orjson.dumps(item)) + 1
        if size > limit_bytes:
            return items[:place]
    return items


BLOCKED: Final = "blocked"  # the loop's own code keeps it: in a system call, or in a computation
STARVED: Final = "starved"  # the machine had no CPU for it
SLEEPING: Final = "sleeping"
COMPUTING: Final = "computing"
WAITING: Final = "waiting"  # for a CPU
UNKNOWN: Final = "unknown"
# A wait that ends so much later than it should was late by no fault of anybody: a timer and a busy CPU do that.
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
    """Returns what a thread of this process has spent, by its native id; None where the system does not say."""
    try:
        cpu_ns, waited_ns = Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[:2]
    except (OSError, ValueError):  # not Linux, a kernel without these figures, or the thread has ended
        return None
    return Use(int(cpu_ns) / 1e9, int(waited_ns) / 1e9)


def is_runnable(thread: int) -> bool:
    """Tells whether a thread of this process is on a CPU or waits for one now; False where the system does not say."""
    try:
        status = Path(f"/proc/self/task/{thread}/stat").read_bytes()
    except OSError:
        return False
    # The name, in brackets, may hold anything; the state is the first field behind it.
    return status[status.rfind(b")") + 2 :][:1] == b"R"


def suspended_s(elapsed_s: float, wanted_s: float, used: Use | None, process_cpu_s: float) -> float:
    """Returns for how long of a wait the whole process did not run: a stop signal, a debugger, a machine put to sleep.

    A wait is late for other reasons too: the thread that waited got no CPU, or another held the interpreter's lock and
    computed. What neither explains is nobody's work. A library that holds the lock and sleeps looks the same.

    Args:
        elapsed_s: how long the wait took.
        wanted_s: how long it should have taken.
        used: what the thread that waited spent meanwhile.
        process_cpu_s: what all threads together spent on CPUs meanwhile.
    """
    explained_s = (0.0 if used is None else used.waited_s) + process_cpu_s
    return max(0.0, elapsed_s - wanted_s - SLACK_S - explained_s)


def cause_of(stuck_s: float, used: Use | None, runnable_share: float, patience_s: float) -> tuple[str, str]:
    """Returns why a loop has not answered, `BLOCKED` or `STARVED`, and what its thread did.

    Args:
        stuck_s: for how long it has not.
        used: what its thread spent meanwhile; None: not known.
        runnable_share: of the times that one looked, how often it was on a CPU or waited for one.
        patience_s: so much computing alone is too long for a loop, however many others want the CPU as well.
    """
    if used is None:
        return BLOCKED, UNKNOWN
    waited_s = used.waited_s
    if runnable_share > 0.5:  # what the sums lack is a wait that is not over
        waited_s = max(waited_s, stuck_s - used.cpu_s)
    if used.cpu_s + waited_s < stuck_s / 2:
        return BLOCKED, SLEEPING
    if used.cpu_s >= min(waited_s, patience_s):
        return BLOCKED, COMPUTING
    return STARVED, WAITING
