"""How a thread spent its time: on a CPU, waiting for one, or asleep; and what that makes of a loop that did not answer.

The kernel's scheduler keeps both sums for each thread (`/proc/self/task/<id>/schedstat`). A wait for a CPU that is not
over yet is not in them: the thread's state tells of it. Elsewhere than on Linux nothing of this is known.

    one reading 16 us
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["BLOCKED", "STARVED", "Use", "cause_of", "is_runnable", "suspended_s", "use_of"]

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
