"""What would otherwise pass unseen goes the way of all records: warnings, and exceptions that nobody catches.

    with telemetry.open(settings), capture.capturing():
        capture.watch_loop(loop)        inside the loop's own program

A node does this by itself. Any other program has it only if it asks: the hooks belong to the whole process. What was
there before still runs; where that is the interpreter's own, the traceback is printed here instead, with the secrets
in it replaced: a service's stderr is kept as well. In two places the record stands instead: a warning is not printed,
and asyncio's own line about an error in its loop is not logged.

Guarantees:
    - A hook never raises, whatever it is handed. What it could not record is counted.
    - What a hook's own work causes does not come back to it: it goes to what was there before.
    - Ctrl-C and `sys.exit` are no errors.
"""

from __future__ import annotations

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

__all__ = ["capturing", "failures", "install", "print_error", "uninstall", "watch_loop"]

log = get_logger(CRASH_LOGGER)
# The standard library's name for them, so that what filters it elsewhere filters it here. Limited by place: a warning
# in a loop, with a filter that says "always", comes thousands of times a second.
_warnings: Final = RateLimitedLogger(get_logger("py.warnings"))

_NO_ERRORS: Final = (KeyboardInterrupt, SystemExit)
# They print what they are handed, secrets and all.
_INTERPRETERS: Final = (sys.__excepthook__, sys.__unraisablehook__, threading.__excepthook__)

# Records what the hook was called with; returns whether that is enough, so that what was there before need not run.
Report = Callable[..., bool]

_busy = threading.local()


class Hook:
    """Stands where a hook of the interpreter stood, until `remove`.

    Somebody may put theirs on top of it. Then it cannot leave: it stays where it is and only passes on.

    Args:
        get: returns what is there.
        put: puts something there.
        report: records what comes in.
        standard: what runs where nothing was there, or the interpreter's own.
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
        """Records, and passes on to what was there."""
        if not (self.is_active and self._take(arguments, named)):
            self._next(*arguments, **named)

    def _take(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
        if getattr(_busy, "is_set", False):
            return False
        _busy.is_set = True
        try:
            return self._report(*arguments, **named)
        except Exception:  # the border to whatever the interpreter hands in, at its end too  # noqa: BLE001
            runtime.hook_failures += 1
            return False
        finally:
            _busy.is_set = False

    def remove(self) -> None:
        """Puts back what was there, unless somebody has put theirs on top. Idempotent."""
        self.is_active = False
        if self._get() is self:
            self._put(self._before)


_hooks: list[Hook] = []
_loop_hooks: weakref.WeakSet[Hook] = weakref.WeakSet()  # a loop holds its own; it may be gone before `uninstall`


def install() -> None:
    """Captures warnings and what nobody catches, in the main thread, in others, and where it cannot be raised.

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
    """Puts back what was there before `install` and `watch_loop`. Idempotent."""
    for hook in (*_hooks, *_loop_hooks):
        hook.remove()
    _hooks.clear()
    _loop_hooks.clear()


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Captures the errors that an event loop finds nobody to tell, until `uninstall` or the loop's end. Idempotent."""
    before = loop.get_exception_handler()
    if before in _loop_hooks:
        return
    report = partial(_report_loop, is_enough=before is None)
    _loop_hooks.add(
        Hook(loop.get_exception_handler, loop.set_exception_handler, report, type(loop).default_exception_handler)
    )


@contextmanager
def capturing() -> Iterator[None]:
    """Captures within the block, and records the exception that ends it, which the caller gets as ever.

    `sys.excepthook` would hear of that one too late: by then telemetry, which is around this block, is closed.
    """
    is_ours = not _hooks
    install()
    try:
        yield
    except Exception as error:
        log.critical("uncaught exception", exc_info=error)
        raise
    finally:
        if is_ours:
            uninstall()


def failures() -> int:
    """Returns how many times a hook could not record what it was called with, since the start of the process."""
    return runtime.hook_failures


def _report_uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> bool:
    if not issubclass(kind, _NO_ERRORS):
        # Nothing is flushed here: the black box has it as soon as this returns.
        log.critical("uncaught exception", exc_info=(kind, error, traceback))
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
        # Its name alone: an object that is being torn down must not be brought back by a log record.
        name = getattr(found.object, "__qualname__", None) or type(found.object).__name__
        fields = {"what": found.err_msg or "Exception ignored in", "in": name, "error": found.exc_type.__name__}
        exc_info = None if error is None else (found.exc_type, error, found.exc_traceback)
        log.error("unraisable exception", extra=fields, exc_info=exc_info)
    return False


def print_error(error: BaseException, heading: str = "") -> None:
    """Prints the traceback of an error to stderr, as the interpreter does, with secrets replaced. Never raises."""
    try:
        text = heading + "".join(tracebacks.format_exception(error))
        if sys.stderr is not None:  # a daemon may have none
            sys.stderr.write(scrub(text))
            sys.stderr.flush()
    except Exception:  # an error whose `__str__` raises, a closed stderr: the record of it is made  # noqa: BLE001
        runtime.hook_failures += 1


def _print_uncaught(_: type[BaseException], error: BaseException, traceback: Any) -> None:
    print_error(error.with_traceback(traceback))


def _print_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not issubclass(found.exc_type, SystemExit):
        name = threading.get_ident() if found.thread is None else found.thread.name
        print_error(found.exc_value, f"Exception in thread {name}:\n")


def _print_unraisable(found: sys.UnraisableHookArgs) -> None:
    if found.exc_value is not None:
        name = getattr(found.object, "__qualname__", None) or type(found.object).__name__
        print_error(found.exc_value, f"{found.err_msg or 'Exception ignored in'}: {name}\n")


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
    _, is_told, place = rest.rpartition(") at ")
    return f"{head}(…) at {place}" if is_told else f"{head}(…)"


def _report_loop(_: asyncio.AbstractEventLoop, context: dict[str, Any], *, is_enough: bool) -> bool:
    error = context.get("exception")
    if isinstance(error, _NO_ERRORS):
        return False
    name = getattr(context.get("task") or context.get("future"), "get_name", lambda: None)()
    fields = {"what": _without_arguments(str(context.get("message"))), "task": name}
    log.error("error in the event loop", extra=fields, exc_info=error)
    return is_enough
