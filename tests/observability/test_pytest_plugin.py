"""The plugin for pytest: which traces a test has, and how they are shown."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from hearthnet.observability import telemetry, trace
from hearthnet.observability.pytest_plugin import _shown, _since
from hearthnet.observability.runtime import runtime


def record(*names):
    """Records a trace of each."""
    for name in names:
        with trace.trace(name):
            pass


def found(started_ns=0):
    """The names of the traces of a test that began then."""
    return [one.capability for one in _since(started_ns)]


def test_traces_of_a_store_that_the_test_has_closed(observability):
    """Also those made after it, and of two in one folder."""
    for name in ("first", "second"):
        with telemetry.open(observability):
            record(name)
    record("after")

    assert found() == ["first", "second", "after"]


def test_traces_before_the_test_and_of_other_processes(observability):
    """Are not the test's."""
    with telemetry.open(observability) as opened:
        record("early")
        with trace.trace("late") as late:
            pass
        assert opened.flush()
    assert found(late.started_ns) == ["late"]

    with closing(sqlite3.connect(runtime.store_dir / "telemetry.db", isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET pid = 0")

    assert found() == []


def test_store_that_is_gone(observability):
    """What is in memory is found."""
    with telemetry.open(observability):
        record("stored")
    (runtime.store_dir / "telemetry.db").unlink()
    record("after")

    assert found() == ["after"]


@pytest.mark.parametrize("text", ["evil\x1b]0;pwned\x07", "two\nlines", "\u202eback"])
def test_terminal_obeys_no_text_of_a_trace(text):
    """Neither of a name, nor of an error, a span, its extras."""
    with pytest.raises(ValueError), trace.trace(text), trace.span(text, **{text: text}):  # noqa: PT011  # any text
        raise ValueError(text)

    shown = _shown(_since(0)[-1])
    assert [line for line in shown.split("\n") if not line.isprintable()] == []
    assert len(shown.split("\n")) == 2
