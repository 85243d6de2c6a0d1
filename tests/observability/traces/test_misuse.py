"""A code that no result has is recorded as an internal error, and logged once."""

from __future__ import annotations

import logging

import pytest

from hearthnet.observability import trace
from hearthnet.observability.records.results import RESULTS
from hearthnet.observability.traces import misuse


@pytest.fixture
def told():
    """The records that tell of codes."""
    found = []

    class Collector(logging.Handler):
        def emit(self, record):
            found.append(record)

    collector = Collector()
    logger = logging.getLogger(misuse.__name__)
    logger.addHandler(collector)
    yield found
    logger.removeHandler(collector)


def test_unknown_code_is_logged_once(told):
    """With the codes that are known, and the line of the program that set it."""
    for code in ("broken", "broken", "spoilt", "timeout"):
        with trace.trace("work") as begun:
            begun.fail(code)

    assert [record.code for record in told] == ["broken", "spoilt"]
    first = told[0]
    assert (first.levelname, first.result, first.known) == ("WARNING", "internal_error", sorted(RESULTS))
    assert (first.pathname, first.funcName) == (__file__, "test_unknown_code_is_logged_once")
    assert "begun.fail(code)" in first.stack_info


def test_code_is_the_message_where_none_is_given():
    """A message of its own is kept."""
    for message in (None, "why"):
        with trace.trace("work") as begun:
            begun.fail("broken", message)

    assert [(one.result, one.error) for one in trace.get_recent(2)] == [
        ("internal_error", "why"),
        ("internal_error", "broken"),
    ]


@pytest.mark.parametrize(("code", "shown"), [(5, "of type int"), (None, "of type NoneType"), ("x" * 10_000, "x" * 128)])
def test_whatever_is_given_is_shown_short(told, code, shown):
    """Other things than text by their type."""
    assert misuse.known_code(code) == "internal_error"
    assert [record.code for record in told] == [shown]


def test_codes_are_told_up_to_a_bound(told):
    """A program that makes up codes fills neither the log nor the memory."""
    for number in range(300):
        misuse.known_code(f"broken {number}")

    assert len(told) == 100


class _Nameless(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class _Hostile(str):
    __slots__ = ()

    def __hash__(self):
        raise RuntimeError("no hash")

    def __eq__(self, other):
        raise RuntimeError("no equality")


@pytest.mark.parametrize(
    "code",
    [_Nameless("Odd", (), {})(), _Nameless("Odd", (), {}), _Hostile("broken"), None, 7],
    ids=["object", "class", "text", "none", "number"],
)
def test_any_object_as_a_code_raises_nothing(told, code):
    """It is told of, and the trace has failed."""
    with trace.trace("work") as begun:
        begun.fail(code)

    assert begun.result == "internal_error"
    assert len(told) <= 1
