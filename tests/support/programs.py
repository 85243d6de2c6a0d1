"""Generated generators and coroutines, and consumers that drive them: what a decorator must not change.

A program is the source text of one function, `program`, which notes in `seen` what reaches it. It has yields, raises,
returns, `try` with handlers and clean-up, and spans. A consumer is a list of what is sent and thrown, and when the
program is closed or forgotten. `drive` runs both and returns everything that can be observed.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import types
import warnings
from contextlib import contextmanager
from functools import partial
from textwrap import indent

from hypothesis import strategies as st

from hearthnet.observability import trace

ERRORS = (
    ValueError, LookupError, RuntimeError, StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt,
    SystemExit, asyncio.CancelledError,
)  # fmt: skip
NAMES = {error.__name__: error for error in ERRORS}
_CAUGHT = st.sampled_from([*NAMES, "Exception", "BaseException", "(ValueError, GeneratorExit)"])


@types.coroutine
def pause(value):
    """Suspends a coroutine, as a future does; returns what the driver sends."""
    return (yield value)


def _simple(kind):
    steps = {
        "generator": ["seen.append(('got', (yield {})))"],
        "coroutine": ["seen.append(('got', await pause({})))"],
        "async generator": ["seen.append(('got', (yield {})))", "seen.append(('woken', await pause({})))"],
    }[kind]
    wait = st.builds(str.format, st.sampled_from(steps), st.integers(0, 9))
    fail = st.builds("raise {}('own')".format, st.sampled_from(list(NAMES)))
    leave = st.just("return") if kind == "async generator" else st.builds("return {}".format, st.integers(10, 19))
    note = st.just("seen.append(('handling', repr(sys.exception())))")
    return st.one_of(wait, wait, wait, fail, leave, note)


def _compound(blocks):
    handled = st.builds(
        "try:\n{}\nexcept {} as error:\n    seen.append(('caught', told(error)))\n{}".format, blocks, _CAUGHT, blocks
    )
    cleaned = st.builds("try:\n{}\nfinally:\n    seen.append('clean-up')\n{}".format, blocks, blocks)
    spanned = st.builds("with trace.span('inner'):\n{}".format, blocks)
    repeated = st.builds("for _ in range(2):\n{}".format, blocks)
    return st.one_of(handled, handled, cleaned, spanned, repeated)


def bodies(kind):
    """Generates bodies of programs of a kind: `generator`, `coroutine` or `async generator`."""

    def block(statements):
        return st.lists(statements, min_size=1, max_size=4).map(lambda lines: indent("\n".join(lines), "    "))

    simple = _simple(kind)
    statement = st.recursive(simple, lambda inner: _compound(block(inner)), max_leaves=12)
    return block(statement)


def actions(*, is_coroutine=False):
    """Generates what a consumer does: sends, throws a class or an instance, closes, lets go."""
    # What awaits a coroutine passes a GeneratorExit on as a close, as any `await` does.
    names = [name for name in NAMES if not (is_coroutine and name == "GeneratorExit")]
    send = st.tuples(st.just("send"), st.sampled_from([None, None, None, 20, 21]))
    throw = st.tuples(st.just("throw"), st.sampled_from(names).map(NAMES.get))
    throw_made = st.tuples(st.just("throw made"), st.sampled_from(names).map(NAMES.get))
    close = st.just(("close", None))
    return st.lists(st.one_of(send, send, send, throw, throw_made, close), min_size=1, max_size=8)


def told(error):
    """An exception as an observer sees it, with what caused it."""
    found = []
    while error is not None and len(found) < 8:
        found.append((type(error).__name__, str(error), error.__suppress_context__))
        error = error.__cause__ or error.__context__
    return found


def made(kind, body, decorate):
    """The function of a program, decorated, and the list of what it has seen."""
    seen = []
    scope = {"seen": seen, "pause": pause, "sys": sys, "trace": trace, "told": told, "asyncio": asyncio, **NAMES}
    head = {"generator": "def", "coroutine": "async def", "async generator": "async def"}[kind]
    never = {"generator": "yield", "coroutine": "pass", "async generator": "yield"}[kind]
    exec(f"{head} program():\n{body}\n    if False: {never}\n", scope)
    return decorate(scope["program"]), seen


def state_of(subject):
    """The state that `inspect` sees."""
    if inspect.isgenerator(subject):
        return inspect.getgeneratorstate(subject)
    if inspect.iscoroutine(subject):
        return inspect.getcoroutinestate(subject)
    return subject.ag_running


def _step(subject, action, value):
    """One action on a generator or a coroutine."""
    if action == "close":
        return subject.close()
    if action == "send":
        return subject.send(value)
    return subject.throw(value if action == "throw" else value("thrown"))


class _Awaited:
    """The steps of an asynchronous generator, driven by hand: an action while one is pending goes to that one."""

    def __init__(self, subject):
        self._subject = subject
        self._pending = None

    def __call__(self, action, value):
        subject = self._subject
        if self._pending is None:
            if action == "close":
                self._pending = subject.aclose()
            elif action == "send":
                self._pending = subject.asend(value)
            else:
                self._pending = subject.athrow(value if action == "throw" else value("thrown"))
            action, value = "send", None
        elif action == "close" or value is GeneratorExit:  # a driver that gives up cancels
            action, value = "throw", asyncio.CancelledError
        try:
            return ("paused", _step(self._pending, action, value))
        except BaseException:
            self._pending = None
            raise


@contextmanager
def _unraisable(lost):
    """Has exceptions that Python cannot raise, such as those of the garbage collector, collected in `lost`."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda told_of: lost.append(told(told_of.exc_value))
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _noting(seen, is_handling):
    """Notes what a step raises; while the consumer handles an exception of its own, or not."""
    try:
        if not is_handling:
            yield
            return
        try:
            raise OSError("the consumer's")
        except OSError:
            yield
    except BaseException as error:  # noqa: BLE001
        seen.append(("raised", told(error), getattr(error, "value", None)))


def drive(kind, body, decorate, script, *, is_handling):
    """Runs a program with a consumer; returns what both have seen, what was warned of, and the last state.

    Args:
        kind: of the program.
        body: its source text.
        decorate: called with its function.
        script: the consumer's actions.
        is_handling: whether the consumer acts while it handles an exception of its own.
    """
    lost = []
    with warnings.catch_warnings(record=True) as warned, _unraisable(lost):
        warnings.simplefilter("always")
        function, seen = made(kind, body, decorate)
        subject = function()
        step = _Awaited(subject) if kind == "async generator" else partial(_step, subject)
        for action, value in script:
            with _noting(seen, is_handling):
                seen.append(("item", step(action, value)))
            seen.append(state_of(subject))
        if kind != "async generator":
            with _noting(seen, False):
                subject.close()
        del subject, step
        gc.collect(0)
    return seen, [str(warning.message) for warning in warned], lost
