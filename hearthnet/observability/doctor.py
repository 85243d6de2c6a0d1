"""The runner of self-diagnostics: runs checks in parallel, each isolated and with a deadline.

It knows no check by itself. A check is a function of the configuration and the bus, registered by name; the standard
ones (`hearthnet/checks` lists them all) are registered when the first name is asked for.

Guarantees:
    - Whatever a check does, the report is complete: one that raises, exits, or returns something other than a
      `CheckResult` becomes a failed finding with its cause; so does one that exceeds its deadline, with its stack.
    - A check runs once at a time. A caller that asks for a running one gets the same result; one that still hangs from
      an earlier call is reported so, and no further thread is started. So there is at most one thread per check.
    - A check that hangs does not keep the process from exiting.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from inspect import iscoroutine
from itertools import islice, takewhile
from traceback import walk_stack, walk_tb
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from hearthnet import observability
from hearthnet.errors import UnknownCheckError
from hearthnet.observability.records.record import bounded, clean_text

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus
    from hearthnet.config import Config

    Check = Callable[[Config, CapabilityBus | None], "CheckResult"]

__all__ = ["DEADLINE_S", "STATUSES", "CheckResult", "names", "register", "run_all", "run_one"]

STATUSES: Final = ("pass", "warn", "fail", "skip")
DEADLINE_S: Final = 5.0  # more than any healthy check takes on a slow SD card
MAX_AT_ONCE: Final = 32  # threads of one run; further checks are queued
_MAX_FRAMES: Final = 8  # innermost ones: enough to reach the check from within a library
_MAX_MESSAGE_BYTES: Final = 200
_STANDARD_LIBRARY: Final = os.__file__.rpartition(os.sep)[0]  # importing pathlib costs more than this whole module


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The finding of one check.

    Attributes:
        name: the check's.
        ok: false only where something must be fixed: if the status is `fail`.
        detail: one line for people, with the measured values.
        fix: what to do, as a command where there is one.
        status: `pass`, `warn`, `fail` or `skip`; by default `pass` or `fail`, by `ok`.
        evidence: the measured values, as data.
        duration_ms: how long the check took.

    Raises:
        ValueError: raised for an unknown status, or one that contradicts `ok`.
    """

    name: str
    ok: bool
    detail: str
    fix: str | None = None
    status: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    duration_ms: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ok", bool(self.ok))  # a check may pass a truthy value
        if not self.status:
            object.__setattr__(self, "status", "pass" if self.ok else "fail")
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}: it is one of {', '.join(STATUSES)}")
        if self.ok == (self.status == "fail"):
            raise ValueError(f"ok is {self.ok} with status {self.status}: it is False for fail, else True")

    def as_dict(self) -> dict[str, Any]:
        """Returns the result with the keys of the JSON report."""
        return {
            "name": self.name,
            "status": self.status,
            "ok": self.ok,
            "detail": self.detail,
            "fix": self.fix,
            "evidence": dict(self.evidence),
            "duration_ms": round(self.duration_ms, 3),
        }


@dataclass(frozen=True, slots=True)
class _Registered:
    check: Check
    deadline_s: float


_checks: dict[str, _Registered] = {}
_registering = threading.Lock()  # over `_checks`; held for microseconds
_is_standard_known = threading.Event()


def register(name: str, check: Check, *, deadline_s: float = DEADLINE_S) -> None:
    """Adds a check, or replaces the one of that name.

    Args:
        name: in the report, and for `--check`.
        check: a plain function, called in a thread of its own with the settings and the node's bus; None if no
            node is running.
        deadline_s: in seconds; a check that exceeds it has failed.
    """
    with _registering:
        _checks[name] = _Registered(check, deadline_s)


def names() -> list[str]:
    """Returns the names of all checks, in the order of the report: the standard ones, then the program's own."""
    return list(_known())


def _known() -> dict[str, _Registered]:
    """Returns all checks by name: the standard ones, then the program's own; its own replaces a standard namesake.

    Raises:
        ImportError: raised when the standard checks cannot be imported: no report is better than one of nothing.
    """
    standard = {} if _is_standard_known.is_set() else observability.standard_checks()
    with _registering:
        if not _is_standard_known.is_set():
            own = _checks.copy()
            _checks.clear()
            _checks.update({name: _Registered(check, DEADLINE_S) for name, check in standard.items()} | own)
            _is_standard_known.set()
        return _checks.copy()


def run_one(
    name: str, config: Config, bus: CapabilityBus | None = None, *, deadline_s: float | None = None
) -> CheckResult:
    """Runs one check.

    Args:
        name: the check's.
        config: the node's settings.
        bus: the node's, if one is running in this process.
        deadline_s: in seconds, instead of its own deadline.

    Raises:
        UnknownCheckError: raised when no check has that name. It is a KeyError.
    """
    return run_all(config, bus, only=[name], deadline_s=deadline_s)[0]


def run_all(
    config: Config,
    bus: CapabilityBus | None = None,
    *,
    only: Collection[str] = (),
    deadline_s: float | None = None,
) -> list[CheckResult]:
    """Runs every check, or those in `only`, in parallel: takes at most about the longest deadline.

    The standard checks are always among them: the report is never empty.

    Args:
        config: the node's settings.
        bus: the node's, if one is running in this process.
        only: names of checks; empty: all of them.
        deadline_s: of each, in seconds, instead of its own.

    Returns:
        The results in the order of `names`.

    Raises:
        UnknownCheckError: raised when `only` has an unknown name. It is a KeyError.
    """
    known = _known()
    for name in only:
        if name not in known:
            raise UnknownCheckError(name, known)
    wanted = [name for name in known if not only or name in only]
    waiting, under_way = iter(wanted), list[_Attempt]()
    results: dict[str, CheckResult] = {}
    while len(results) < len(wanted):
        for name in islice(waiting, MAX_AT_ONCE - len(under_way)):
            under_way.append(_attempt(name, known[name], config, bus, deadline_s))
        left_s = min(attempt.left_s() for attempt in under_way)
        wait([attempt.work.future for attempt in under_way], max(0.0, left_s), FIRST_COMPLETED)
        ended = [attempt for attempt in under_way if attempt.work.future.done() or attempt.left_s() <= 0]
        results.update((attempt.name, attempt.result()) for attempt in ended)
        under_way = [attempt for attempt in under_way if attempt not in ended]
    return [results[name] for name in wanted]


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """One run of a check, in a thread of its own; several callers may wait for it."""

    name: str
    registered: _Registered
    config: Config
    bus: CapabilityBus | None
    future: Future[CheckResult] = field(default_factory=Future)
    started_s: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        # A daemon: a check that hangs must not keep the process from exiting.
        thread = threading.Thread(target=self._live, name=f"doctor-{self.name}", daemon=True)
        self.threads.append(thread)
        thread.start()

    def _live(self) -> None:
        self.end(_guarded(self))

    def end(self, found: CheckResult) -> None:
        """Passes the result to all waiting callers; the next call starts a new run."""
        with _lock:
            if _under_way.get(self.name) is self:
                del _under_way[self.name]
        self.future.set_result(found)

    def is_for(self, registered: _Registered, config: Config, bus: CapabilityBus | None) -> bool:
        return self.registered is registered and self.config is config and self.bus is bus

    def waited_s(self) -> float:
        return time.monotonic() - self.started_s

    def stack(self) -> list[str]:
        """Returns its current stack, innermost first; empty before it starts and after it ended."""
        frames = sys._current_frames()  # noqa: SLF001  # its documented name
        found = [frames[thread.ident] for thread in self.threads if thread.ident in frames]
        return [place for frame in found for place in _places(walk_stack(frame))]


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """A caller's wait for a check that was started for it or was running already."""

    work: _Work
    deadline_s: float
    is_late: bool  # it had exceeded its deadline before this call

    @property
    def name(self) -> str:
        return self.work.name

    def left_s(self) -> float:
        return self.deadline_s - self.work.waited_s()

    def result(self) -> CheckResult:
        return self.work.future.result() if self.work.future.done() else _hung(self)


_lock = threading.Lock()
_under_way: dict[str, _Work] = {}


def _attempt(
    name: str, registered: _Registered, config: Config, bus: CapabilityBus | None, deadline_s: float | None
) -> _Attempt:
    """Starts a check, or joins its current run."""
    allowed_s = registered.deadline_s if deadline_s is None else deadline_s
    with _lock:
        work = _under_way.get(name)
        if work is not None and work.is_for(registered, config, bus):
            return _Attempt(work, allowed_s, is_late=work.waited_s() > allowed_s)
        work = _under_way[name] = _Work(name, registered, config, bus)
    try:
        work.begin()
    except RuntimeError as error:  # no more threads
        work.end(_failed(name, f"the check could not be begun: {clean_text(error, _MAX_MESSAGE_BYTES)}"))
    return _Attempt(work, allowed_s, is_late=False)


def _guarded(work: _Work) -> CheckResult:
    """Returns a check's result, redacted and bounded; anything else it does becomes a failed finding."""
    try:
        result = work.registered.check(work.config, work.bus)
        found = _clean(result) if isinstance(result, CheckResult) else _rubbish(work.name, result)
    except BaseException as error:  # sys.exit too is the check's failure  # noqa: BLE001
        found = _raised(work.name, error)
    return replace(found, name=work.name, duration_ms=work.waited_s() * 1_000)


def _clean(result: CheckResult) -> CheckResult:
    """Returns the result redacted: a check's detail may hold a URL with a password.

    Raises:
        TypeError: raised when its evidence is no mapping.
    """
    if not isinstance(result.evidence, Mapping):
        raise TypeError(f"its evidence is {type(result.evidence).__name__}, no mapping")
    fix = None if result.fix is None else clean_text(result.fix)
    return replace(result, detail=clean_text(result.detail), fix=fix, evidence=bounded(result.evidence, strict=True))


def _rubbish(name: str, result: object) -> CheckResult:
    if iscoroutine(result):
        result.close()  # else Python warns that it was never awaited
    kind = type(result).__name__
    return _failed(name, f"the check itself failed: it returned {kind}, no CheckResult", {"result": kind})


def _raised(name: str, error: BaseException) -> CheckResult:
    kind, message = type(error).__name__, clean_text(error, _MAX_MESSAGE_BYTES)
    stack = _places(reversed([*walk_tb(error.__traceback__)]))
    place = f", in {_telling(stack)}" if stack else ""
    evidence = {"error": kind, "message": message, "stack": stack}
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        # Neither the check is at fault nor its subject.
        detail = f"it cannot be verified: the process that checks may open no more files: {message}"
        return _failed(name, detail, evidence, "raise its limit of open files: ulimit -n, LimitNOFILE=")
    return _failed(name, f"the check itself failed: {kind}: {message}{place}", evidence)


def _hung(attempt: _Attempt) -> CheckResult:
    work, stack = attempt.work, attempt.work.stack()
    waited_s, since = work.waited_s(), f"{work.started_at:%Y-%m-%dT%H:%M:%SZ}"
    place = f"; it hangs in {_telling(stack)}" if stack else ""
    if attempt.is_late:
        said = f"still without a result since {since}, {waited_s:.0f} s ago, so it was not begun again"
    else:
        said = f"no result within {attempt.deadline_s:g} s"
    evidence = {"deadline_s": attempt.deadline_s, "since": since, "waited_s": round(waited_s, 3), "stack": stack}
    return replace(_failed(work.name, said + place, evidence), duration_ms=waited_s * 1_000)


def _failed(name: str, detail: str, evidence: Mapping[str, Any] | None = None, fix: str | None = None) -> CheckResult:
    shows_stack = f"hearthnet doctor --check {name} --verbose"  # for the check's author
    return CheckResult(name, ok=False, detail=detail, fix=fix or shows_stack, evidence=evidence or {})


def _places(steps: Iterable[tuple[FrameType, int]]) -> list[str]:
    """Returns the innermost frames of a stack, given innermost first, up to this module's."""
    of_the_check = takewhile(lambda step: step[0].f_code is not _guarded.__code__, steps)
    return [
        f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{line})"
        for frame, line in islice(of_the_check, _MAX_FRAMES)
    ]


def _telling(stack: list[str]) -> str:
    """Returns the innermost frame outside the standard library: a wait in `threading` says little."""
    library = f"({_STANDARD_LIBRARY}{os.sep}"
    own = (place for place in stack if library not in place or "site-packages" in place)
    function, _, place = next(own, stack[0]).partition(" (")
    return f"{function} ({place.rpartition(os.sep)[2]}"
