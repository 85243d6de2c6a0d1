"""Hooks that record uncaught exceptions and warnings.

    with telemetry.open(settings), uncaught.capturing():
        uncaught.watch_loop(loop)        inside the loop's own program

A node installs them by itself, any other program on request: they belong to the whole process. `record` needs none:
telemetry calls it with the exception that ends its block, or the program. A hook that was there before still runs. The
interpreter's own does not: its traceback is printed here, with secrets replaced, because a service's stderr is kept as
well. Two things are recorded and no longer printed: warnings, and asyncio's own line about an error in its loop.

Guarantees:
    - A hook never raises. Failures to record are counted.
    - Errors caused by a hook itself are passed to the hook before it.
    - Ctrl-C and `sys.exit` are no errors.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback as tracebacks
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TextIO

from hearthnet.constants import CRASH_LOGGER
from hearthnet.observability.logging import RateLimitedLogger, get_logger
from hearthnet.observability.records.record import clean_text
from hearthnet.observability.redaction.rules import scrub
from hearthnet.observability.runtime import runtime

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "capturing", "failures", "install", "of_program", "print_error", "record", "uninstall", "watch_loop",
]  # fmt: skip

log = get_logger(CRASH_LOGGER)
# The standard library's name for them, so that what filters it elsewhere filters it here. Limited by place: a warning
# in a loop, with a filter that says "always", comes thousands of times a second.
_warnings: Final = RateLimitedLogger(get_logger("py.warnings"))

_NO_ERRORS: Final = (KeyboardInterrupt, SystemExit)
# These print secrets.
# "Exception ignored while calling deallocator <function Leaky.__del__ at 0x7f…>"
_WITH_NAME: Final = re.compile(r"(.*?) <(?:[\w-]+ )+(\S+) at 0x[0-9a-fA-F]+>")
_INTERPRETERS: Final = (sys.__excepthook__, sys.__unraisablehook__, threading.__excepthook__)

# Records the hook's arguments; returns whether the hook before it need not run.
Report = Callable[..., bool]

_busy = threading.local()
_recorded: tuple[int, int, int] | None = None  # see `_mark`: what was recorded last, which is not kept alive by it


class Hook:
    """Replaces a hook of the interpreter until `remove`.

    Once another hook is installed on top it cannot be removed: it stays and only passes on.

    Args:
        get: returns the current hook.
        put: installs a hook.
        report: records a call.
        standard: runs if there was no hook, or the interpreter's own.
    """

    def __init__(
        self, get: Callable[[], Any], put: Callable[[Any], None], report: Report, standard: Callable[..., Any]
    ) -> None:
        self._get = get
        self._put = put
        self._report = report
        self._before = get()
        is_own = self._before is None or self._before in _INTERPRETERS
        self._next: Callable[..., Any] = standard if is_own else self._before
        self.is_active = True
        put(self)

    def __call__(self, *arguments: Any, **named: Any) -> None:
        """Records, and passes on to the hook before."""
        if not (self.is_active and self._take(arguments, named)):
            self._next(*arguments, **named)

    def _take(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
        if getattr(_busy, "is_set", False):
            return False
        _busy.is_set = True
        try:
            return self._report(*arguments, **named)
        except Exception:  # must not raise into the interpreter, at its exit either  # noqa: BLE001
            runtime.hook_failures += 1
            return False
        finally:
            _busy.is_set = False

    def remove(self) -> None:
        """Restores the hook before, unless another is on top. Idempotent."""
        self.is_active = False
        if self._get() is self:
            self._put(self._before)


_hooks: list[Hook] = []
_loop_hooks: weakref.WeakSet[Hook] = weakref.WeakSet()  # a loop holds its own; it may be gone before `uninstall`


def install() -> None:
    """Records warnings and uncaught exceptions: in the main thread, in others, and where none can be raised.

    Idempotent. Logging is configured before: a warning that no handler would see is printed as ever.
    """
    if not _hooks:
        _hooks.extend(
            (
                _replace(sys, "excepthook", _report_uncaught, _print_uncaught),
                _replace(sys, "unraisablehook", _report_unraisable, _print_unraisable),
                _replace(threading, "excepthook", _report_thread, _print_thread),
                _replace(warnings, "showwarning", _report_warning, warnings.showwarning),
            )
        )


def _replace(owner: object, name: str, report: Report, standard: Callable[..., Any]) -> Hook:
    return Hook(partial(getattr, owner, name), partial(setattr, owner, name), report, standard)


def uninstall() -> None:
    """Undoes `install` and `watch_loop`. Idempotent."""
    for hook in (*_hooks, *_loop_hooks):
        hook.remove()
    _hooks.clear()
    _loop_hooks.clear()


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Records unhandled errors of an event loop, until `uninstall` or the loop's end. Idempotent."""
    before = loop.get_exception_handler()
    if before in _loop_hooks:
        return
    report = partial(_report_loop, is_enough=before is None)
    _loop_hooks.add(
        Hook(loop.get_exception_handler, loop.set_exception_handler, report, type(loop).default_exception_handler)
    )


@contextmanager
def capturing() -> Iterator[None]:
    """Installs the hooks within the block, and records the exception that ends it and is raised on.

    `sys.excepthook` would get that one too late: telemetry, opened around this block, is closed by then. Where it ends
    the program it is printed with secrets replaced: what prints so is left in place of the interpreter's own hook.
    """
    is_ours = not _hooks
    is_failing = False
    install()
    try:
        yield
    except Exception as error:
        is_failing = True
        _log_uncaught(type(error), error, error.__traceback__)
        raise
    finally:
        if is_ours:
            uninstall()
            if is_failing and sys.excepthook is sys.__excepthook__:
                sys.excepthook = _print_uncaught


def failures() -> int:
    """Returns how many times a hook failed to record its call, since the start of the process."""
    return runtime.hook_failures


def record(error: BaseException | None) -> None:
    """Records the exception that ends a block or the program, once. Ctrl-C, `sys.exit` and a cancellation are none."""
    if isinstance(error, Exception) and _mark(error) != _recorded:
        _log_uncaught(type(error), error, error.__traceback__)


def of_program() -> BaseException | None:
    """Returns the exception with which the interpreter has left the main module, and None while there is none.

    An interactive session and pytest also set what the interpreter sets then, and run on.
    """
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is None or hasattr(sys, "ps1"):
        return None
    frames = (frame for frame, _ in tracebacks.walk_tb(error.__traceback__))
    places = ((frame.f_globals.get("__name__"), frame.f_code.co_name) for frame in frames)
    outermost = next((place for place in places if place[0] != "runpy"), None)  # below it, for `python -m`
    return error if outermost == ("__main__", "<module>") else None


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    global _recorded
    _recorded = _mark(error)
    # Nothing is flushed here: the black box has it as soon as this returns.
    log.critical("uncaught exception", exc_info=(kind, error, traceback))


def _mark(error: BaseException) -> tuple[int, int, int] | None:
    """Returns what tells an exception from the next one of the same address; None for one that was never raised."""
    places = list(tracebacks.walk_tb(error.__traceback__))
    return (id(error), id(places[-1][0].f_code), places[-1][1]) if places else None


def _report_uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> bool:
    if not issubclass(kind, _NO_ERRORS):
        _log_uncaught(kind, error, traceback)
    return False


def _report_thread(found: threading.ExceptHookArgs) -> bool:
    error = found.exc_value
    if error is not None and not issubclass(found.exc_type, _NO_ERRORS):
        name = None if found.thread is None else found.thread.name
        exc_info = (found.exc_type, error, found.exc_traceback)
        log.error("uncaught exception in a thread", extra={"thread": name}, exc_info=exc_info)
    return False


def _report_unraisable(found: sys.UnraisableHookArgs) -> bool:
    if not issubclass(found.exc_type, _NO_ERRORS):
        error = found.exc_value
        what, name = _place_of(found)
        fields = {"what": what, "in": name, "error": found.exc_type.__name__}
        exc_info = None if error is None else (found.exc_type, error, found.exc_traceback)
        log.error("unraisable exception", extra=fields, exc_info=exc_info)
    return False


def _place_of(found: sys.UnraisableHookArgs) -> tuple[str, str]:
    """Returns what the interpreter says of an unraisable error, and the name of the object that it was in.

    Only its name: a log record must not revive an object that is being destroyed. From Python 3.14 on there may be no
    object: then the text ends with it, and with an address, which would make each message another one.
    """
    what = found.err_msg or "Exception ignored in"
    named = None if found.object is not None else _WITH_NAME.fullmatch(what)
    if named is not None:
        return named[1], named[2]
    return what, getattr(found.object, "__qualname__", None) or type(found.object).__name__


def print_error(error: BaseException, heading: str = "") -> None:
    """Prints the traceback of an error to stderr, as the interpreter does, with secrets replaced. Never raises."""
    try:
        text = heading + "".join(tracebacks.format_exception(error))
        if sys.stderr is not None:  # a daemon may have none
            sys.stderr.write(scrub(text))
            sys.stderr.flush()
    except Exception:  # an error whose `__str__` raises, a closed stderr: it is recorded already  # noqa: BLE001
        runtime.hook_failures += 1


def _print_uncaught(_: type[BaseException], error: BaseException, traceback: Any) -> None:
    print_error(error.with_traceback(traceback))


def _print_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not issubclass(found.exc_type, SystemExit):
        name = threading.get_ident() if found.thread is None else found.thread.name
        print_error(found.exc_value, f"Exception in thread {name}:\n")


def _print_unraisable(found: sys.UnraisableHookArgs) -> None:
    if found.exc_value is not None:
        what, name = _place_of(found)
        print_error(found.exc_value, f"{what}: {name}\n")


def _report_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,  # the standard library's signature
) -> bool:
    if file is not None or not _warnings.logger.hasHandlers():
        return False
    fields = {"category": category.__name__, "text": clean_text(message), "file": filename, "line": lineno}
    _warnings.warning("python warning", key=f"{category.__name__}:{filename}:{lineno}", extra=fields)
    return True


def _without_arguments(message: str) -> str:
    """Returns asyncio's message without the arguments of a callback: shortened, they hide a secret in halves."""
    head, found, rest = message.partition("(")
    if not (found and head.startswith("Exception in callback ")):
        return message
    _, is_located, location = rest.rpartition(") at ")
    return f"{head}(…) at {location}" if is_located else f"{head}(…)"


def _report_loop(_: asyncio.AbstractEventLoop, context: dict[str, Any], *, is_enough: bool) -> bool:
    error = context.get("exception")
    if isinstance(error, _NO_ERRORS):
        return False
    name = getattr(context.get("task") or context.get("future"), "get_name", lambda: None)()
    fields = {"what": _without_arguments(str(context.get("message"))), "task": name}
    log.error("error in the event loop", extra=fields, exc_info=error)
    return is_enough
