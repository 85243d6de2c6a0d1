"""The kernel's own account of a run's end: its counters of processes killed for memory, and its log.

A SIGKILL leaves the same files, no matter who sends it; only the kernel knows that it did so for want of memory. Of a
fault, such as a segmentation fault, it writes a line, too, unless the process handles the signal.

    counters    `oom_kill` of the run's control group (`memory.events`; in version 1 `memory.oom_control`) and of the
                machine (`/proc/vmstat`), read when the box is made and after the end; the group's also with each sample
    log         the line "Killed process PID": in /dev/kmsg, else in the journal, or in a file that is given

A process counts in its own group, whichever limit above was hit. A counter that has not risen rules such a kill out;
one that has risen does not name the process, so it proves a kill only if the last sample shows the process alone in its
group. Without a sample, as of a program that is no node, it may have risen at any time since the start. The log names
it, by the pid of the first pid namespace: a process in another one has no such pid, and reads no log.

`memory.failcnt` is not used: it rises whenever files fill the group up to its limit.
Nothing here raises: a file that cannot be read or understood is no evidence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, NamedTuple

from hearthnet.forensics.box import Box, this_boot
from hearthnet.forensics.model import Kernel, OomKills, Run

__all__ = [
    "KernelSources",
    "groups_of",
    "is_fault",
    "kernel_of",
    "kernel_pid",
    "levels",
    "oom_kills",
    "oom_kills_in",
    "processes_in",
]

_SELF: Final = Path("/proc/self")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_COUNTERS: Final = ("memory.events", "memory.oom_control")
_MAX_GROUPS: Final = 5_000
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC  # its inode, fixed in the kernel's ABI
_KMSG_BYTES: Final = 8_192  # the longest record
_MAX_RECORDS: Final = 200_000
_MAX_LOG_BYTES: Final = 64_000_000
_JOURNAL_S: Final = 5.0
_BOOT_ID: Final = re.compile(r"[0-9a-fA-F-]{1,36}")  # as the kernel writes it: what a file holds may be anything
_KMSG: Final = re.compile(r"(\d+),\d+,(\d+),[^;]*;(.*)")
_DMESG: Final = re.compile(r"(?:<\d+>)?\[\s*(\d+)\.(\d{6})\]\s*(.*)")
_KILLED: Final = re.compile(r"\bKilled process (\d+)\b")
# The number is that of the thread, and so of the process only where its main thread failed.
_FAULT: Final = re.compile(r"\[(\d+)\]:? (?:segfault at|general protection fault|trap |unhandled )")
# The log's clock is not exactly the monotonic one; a pid does not come round again so soon.
_BEFORE_US: Final = 60_000_000
_AFTER_US: Final = 600_000_000


class LogLine(NamedTuple):
    """A line of the kernel's log; `at_us` is its time since boot in microseconds, None if it has another clock."""

    at_us: int | None
    text: str


# --- the counters


def oom_kills(proc: Path = _SELF, mounted: Path = _CGROUPS) -> OomKills:
    """Returns the counters of this process's control group and machine, as the header of its box keeps them."""
    group = next(groups_of(proc / "cgroup", mounted), None)
    on_machine = _count(proc.parent / "vmstat")
    if group is None:
        return OomKills(on_machine=on_machine)
    with suppress(OSError):
        return OomKills(group.stat().st_ino, oom_kills_in(group), on_machine)
    return OomKills(on_machine=on_machine)


def groups_of(cgroup: Path, mounted: Path = _CGROUPS) -> Iterator[Path]:
    """Yields the groups that count the kills for memory of a process, by its file `cgroup`: its own, then those above.

    In a container the path may be the host's, of which only the root is visible.
    """
    with suppress(OSError):  # not Linux
        for line in cgroup.read_text("utf-8", "replace").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            roots = (mounted, mounted / "unified") if controllers == "" else (mounted / "memory",)
            if controllers == "" or "memory" in controllers.split(","):
                for root in roots:
                    yield from (level for level in levels(root, path) if oom_kills_in(level) is not None)


def processes_in(group: Path) -> int | None:
    """Returns how many processes a control group has; None: unknown."""
    with suppress(OSError):
        return len((group / "cgroup.procs").read_bytes().split())
    return None


def levels(root: Path, path: str) -> list[Path]:
    """Returns the folder of a control group and those above it, up to `root`."""
    own = root / path.strip("/")
    return [level for level in (own, *own.parents) if level.is_relative_to(root)]


def oom_kills_in(group: Path) -> int | None:
    """Returns how many processes of a control group were killed for memory; None: unknown."""
    found = (_count(group / name) for name in _COUNTERS)
    return next((count for count in found if count is not None), None)


def _count(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_bytes().splitlines():
            name, _, value = line.partition(b" ")
            if name == b"oom_kill":
                return int(value)
    return None


def kernel_pid(proc: Path = _SELF) -> int:
    """Returns the pid of this process as the kernel's log has it; 0 in another pid namespace than the first."""
    return os.getpid() if _is_first_namespace(proc) else 0


def _is_first_namespace(proc: Path) -> bool:
    try:
        return (proc / "ns" / "pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


# --- the account


class KernelSources:
    """Where the kernel's account is read. The log is read once, when it is first needed.

    Args:
        proc: of a process of this machine.
        cgroups: where control groups are mounted.
        log: the kernel's log, as a device or as text; None: no log.
        journal: the command that prints the journal; None: it is not asked.
        is_given: `log` was copied from the machine of the run, so it is read whatever the boot.
    """

    def __init__(
        self,
        proc: Path = _SELF,
        cgroups: Path = _CGROUPS,
        log: Path | None = Path("/dev/kmsg"),
        journal: str | None = None,
        *,
        is_given: bool = False,
    ) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._log_path = log
        self._journal = journal
        self._is_given = is_given
        self._lines: list[LogLine] | None = None

    def of_box(self, box: Box) -> Kernel | None:
        """Returns the account of the end of the run that left a box; None: unknown."""
        header = box.header
        started_us = header.started_ns // 1_000
        if not self._is_given and header.boot_id != this_boot():
            return None
        pid = header.kernel_pid or (header.pid if self._is_given else 0)
        seen_us = max(box.heartbeat_ns, header.started_ns) // 1_000
        if pid and (said := self._said(pid, started_us, seen_us)) is not None:
            return said
        if self._is_given:
            return None
        if pid and self._covers(seen_us):
            return Kernel("none", (f"the kernel's log has no kill of process {pid} for memory",))
        return self._by_group(box) or self._by_machine(header.oom_kills.on_machine)

    def of_run(self, run: Run) -> Kernel | None:
        """Returns what the log says of a run whose box is gone; None: nothing. Its clock is the wall clock."""
        seen_us = run.last_seen_us or run.started_us
        boot_us = int((time() - monotonic()) * 1e6)
        if self._is_given or run.boot_id == this_boot():
            said = self._said(run.pid, run.started_us - boot_us, seen_us - boot_us)
            if said is not None:
                return said
        return self._from_journal(run, seen_us)

    def _said(self, pid: int, started_us: int, seen_us: int) -> Kernel | None:
        """Returns the account by the log's last line that names the pid in the lifetime of its process."""
        for line in reversed(self._log()):
            # A line without a time may be of another boot.
            is_of_its_life = line.at_us is None or started_us - _BEFORE_US <= line.at_us <= seen_us + _AFTER_US
            if is_of_its_life and (confidence := _confidence(line.text, pid)) is not None:
                is_sure = line.at_us is not None or confidence == "none"
                return Kernel(confidence if is_sure else "likely", (_quoted(line.text),))
        return None

    def _covers(self, seen_us: int) -> bool:
        """Returns whether the log still has all that came after the run was last seen."""
        first = next((line.at_us for line in self._log() if line.at_us is not None), None)
        return first is not None and first <= seen_us

    def _by_group(self, box: Box) -> Kernel | None:
        sampled = [(it.group_oom_kills, it.group_processes) for it in box.vitals if it.group_oom_kills is not None]
        before, processes = sampled[-1] if sampled else (box.header.oom_kills.in_group, None)
        group = self._group(box.header.oom_kills.group)
        now = None if group is None else oom_kills_in(group)
        if before is None or now is None:
            return None
        counter = f"oom_kill of the control group {group}"
        if now <= before:
            return Kernel("none", (f"{counter} is {now}, as before the end: none of it was killed for memory",))
        if not sampled:  # a worker may have been killed hours before
            line = f"{counter} rose from {before} to {now} since the start: so many of it were killed, sooner or later"
            return Kernel("possible", (line,))
        line = f"{counter} rose from {before} to {now} at the end: so many of it were killed for memory"
        if processes == 1:
            return Kernel("certain", (f"{line}, and this process was alone in it",))
        return Kernel("likely", (line,))

    def _group(self, inode: int) -> Path | None:
        """Returns the group with that inode: within one boot no other one gets it."""
        if not inode:
            return None
        roots = (self._cgroups / "memory", self._cgroups / "unified", self._cgroups)
        own = groups_of(self._proc / "cgroup", self._cgroups)
        every = (Path(folder) for root in roots for folder, _, _ in islice(os.walk(root), _MAX_GROUPS))
        for group in (*own, *every):
            with suppress(OSError):
                if group.stat().st_ino == inode and oom_kills_in(group) is not None:
                    return group
        return None

    def _by_machine(self, before: int | None) -> Kernel | None:
        now = _count(self._proc.parent / "vmstat")
        if before is None or now is None:
            return None
        if now <= before:
            return Kernel("none", (f"the kernel killed nothing for memory: oom_kill is {now}, as at the start",))
        line = f"the kernel killed {now - before} process(es) of this machine for memory since the start: see its log"
        return Kernel("possible", (line,))

    # --- the log

    def _log(self) -> list[LogLine]:
        if self._lines is None:
            self._lines = list(self._read())
        return self._lines

    def _read(self) -> Iterator[LogLine]:
        path = self._log_path
        if path is None or not (self._is_given or _is_first_namespace(self._proc)):
            return
        with suppress(OSError):
            if path.is_char_device():
                yield from _device(path)
            else:
                with path.open("rb") as file:
                    text = file.read(_MAX_LOG_BYTES).decode("utf-8", "replace")
                yield from (line for raw in text.splitlines() if (line := parse_line(raw)) is not None)

    def _from_journal(self, run: Run, seen_us: int) -> Kernel | None:
        """Returns the account by the journal, which has the kernel's log of earlier boots as well."""
        boot_id = run.boot_id or ""
        if self._journal is None or not _BOOT_ID.fullmatch(boot_id) or not _is_first_namespace(self._proc):
            return None
        import subprocess  # late: a node does not need it

        since, until = (seen_us - _BEFORE_US) // 1_000_000, (seen_us + _AFTER_US) // 1_000_000
        command = [
            self._journal, "--no-pager", "--quiet", "--output=short-iso", f"--since=@{since}", f"--until=@{until}",
            "_TRANSPORT=kernel", f"_BOOT_ID={boot_id.replace('-', '')}",
        ]  # fmt: skip
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, timeout=_JOURNAL_S, check=False)  # noqa: S603
            for line in reversed(done.stdout.decode("utf-8", "replace").splitlines()):
                if (confidence := _confidence(line, run.pid)) is not None:
                    return Kernel(confidence, (f"the journal: {line.strip()}",))
        return None


def _device(path: Path) -> Iterator[LogLine]:
    """Yields the records of /dev/kmsg that are there now; each read returns one."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_MAX_RECORDS):
            try:
                raw = os.read(fd, _KMSG_BYTES)
            except BrokenPipeError:  # overwritten meanwhile: the next read goes on with the oldest
                continue
            except BlockingIOError:
                return
            if (line := parse_line(raw.decode("utf-8", "replace"))) is not None:
                yield line
    finally:
        os.close(fd)


def parse_line(raw: str) -> LogLine | None:
    """Returns a line of /dev/kmsg, of dmesg or of a log file; None for one that a program wrote into /dev/kmsg."""
    if match := _KMSG.match(raw):
        is_of_kernel = int(match[1]) >> 3 == 0
        return LogLine(int(match[2]), match[3]) if is_of_kernel else None
    if match := _DMESG.match(raw):
        return LogLine(int(match[1]) * 1_000_000 + int(match[2]), match[3])
    return LogLine(None, raw.strip())


def _confidence(text: str, pid: int) -> str | None:
    """Returns the confidence of an account by this line; None for one that does not name the end of a process."""
    for pattern, confidence in ((_KILLED, "certain"), (_FAULT, "none")):
        if (match := pattern.search(text)) is not None and int(match[1]) == pid:
            return confidence
    return None


def is_fault(line: str) -> bool:
    """Returns whether a line of an account is of a fault."""
    return _FAULT.search(line) is not None


def _quoted(text: str) -> str:
    return f"the kernel's log: {text.strip()}"


# --- as kept with the samples of a recovered run


def kernel_of(samples: object) -> Kernel | None:
    """Returns the account that recovery kept with the last sample of a run."""
    last: Any = samples[-1] if isinstance(samples, list) and samples else None
    kept = last.get("kernel") if isinstance(last, dict) else None
    match kept:
        case {"confidence": "certain" | "likely" | "possible" | "none" as confidence, "lines": list() as lines}:
            return Kernel(confidence, tuple(line for line in lines if isinstance(line, str)))
    return None
