"""Tracebacks: whatever is long, the types, the frames nearest to the fault and the root cause are kept."""

from __future__ import annotations

import logging
import sys
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.longer import examples
from support.reading import log_lines

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs.tracebacks import (
    EXC_LINE_BYTES,
    EXC_ROW_BYTES,
    Error,
    error_text,
    shorten,
    texts_of,
)
from hearthnet.observability.redaction.rules import register_secrets
from hearthnet.observability.runtime import runtime

NAME = "hearthnet.test_tracebacks"


def nearest(raise_it):
    """The frame nearest to the fault: its name is searched for."""
    raise_it()


def thrown(make):
    """The exception that `make` raises, as `sys.exc_info` has it."""
    try:
        nearest(make)
    except BaseException:  # noqa: BLE001  # the recursion's too
        return sys.exc_info()
    raise AssertionError("nothing was raised")


def raises(error):
    """A function that raises it."""

    def nearest_to_the_fault():
        raise error

    return nearest_to_the_fault


def with_note(size):
    """An error with a long note."""
    error = ValueError("short")
    error.add_note("n" * size)
    return error


def chained(count, *, is_cause):
    """An error at the end of a chain."""
    error: BaseException = LookupError("the root of all")
    for number in range(count):
        later = ValueError(f"because of it, {number}")
        setattr(later, "__cause__" if is_cause else "__context__", error)
        error = later
    return error


LONG = {
    "message of 500": (raises(ValueError("m" * 500)), ["ValueError: mmm"]),
    "message of 1,000": (raises(ValueError("m" * 1_000)), ["ValueError: mmm"]),
    "message of 1,500": (raises(ValueError("m" * 1_500)), ["ValueError: mmm"]),
    "message of 9,000": (raises(ValueError("m" * 9_000)), ["ValueError: mmm"]),
    "message of 3 MB": (raises(ValueError("m" * 3_000_000)), ["ValueError: mmm"]),
    "message of many lines": (raises(ValueError("line\n" * 4_000)), ["ValueError: line"]),
    "message of indented lines": (raises(ValueError("\n    field required\n" * 900)), ["ValueError: "]),
    "message of control characters": (raises(ValueError("\x01" * 9_000)), ["ValueError: "]),
    "message of quotes": (raises(ValueError('"' * 9_000)), ["ValueError: "]),
    "message of line ends": (raises(ValueError("\u2028" * 9_000)), ["ValueError: "]),
    "message far from ASCII": (raises(ValueError("🜨" * 9_000)), ["ValueError: 🜨"]),
    "lone surrogates": (raises(ValueError("\ud800" * 9_000)), ["ValueError: "]),
    "note": (raises(with_note(9_000)), ["ValueError: short"]),
    "syntax error": (lambda: compile("(" + "x " * 9_000, "made_up.py", "exec"), ["SyntaxError: "]),
    "3,000 causes": (raises(chained(3_000, is_cause=True)), ["LookupError: the root of all", "because of it, 2999"]),
    "3,000 contexts": (raises(chained(3_000, is_cause=False)), ["LookupError: the root of all", "because of it, 2999"]),
    "20 causes": (raises(chained(20, is_cause=True)), ["LookupError: the root of all", "because of it, 19"]),
    "group": (
        raises(ExceptionGroup("several", [*(OSError("o" * 2_000) for _ in range(40)), KeyError("k")])),
        ["ExceptionGroup: several (41 sub-exceptions)"],
    ),
    "long name": (raises(type("N" * 300, (Exception,), {})("m" * 3_000)), ["N" * 300]),
}


@pytest.fixture
def records(tmp_path):
    """Logging configured; logs an exception and returns the texts of its line and its row."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))

    def log_it(exc_info, **more):
        get_logger(NAME).error("failed", exc_info=exc_info, **more)
        return log_lines(tmp_path)[-1], runtime.recorder.pending_logs()[-1]

    return log_it


@pytest.mark.parametrize("name", LONG)
def test_long_parts_leave_type_frames_and_root(records, name):
    """In the line and in the row: each of the words, and the frame in which it was raised."""
    make, said = LONG[name]
    line, row = records(thrown(make))

    for text, limit in ((line["exc"], EXC_LINE_BYTES), (row.exc, EXC_ROW_BYTES)):
        assert len(text.encode()) <= limit
        assert [words for words in said if words not in text] == []
        if "syntax" in name:
            assert 'File "made_up.py", line 1' in text
        else:
            assert "in nearest_to_the_fault" in text
    assert line["exc_type"] in said[-1] or "because" in said[-1]


def in_circles(count):
    """A recursion through three functions."""

    def first(left):
        return second(left - 1) if left else 1 / 0

    def second(left):
        return third(left - 1) if left else 1 / 0

    def third(left):
        return first(left - 1) if left else 1 / 0

    return lambda: first(count)


@pytest.mark.parametrize(("make", "said"), [(in_circles(10**9), "RecursionError: "), (in_circles(200), "ZeroDivision")])
def test_recursion_keeps_its_end(records, make, said):
    """The newest frames and the error are there; that frames were cut is said."""
    for text in (records(thrown(make))[0]["exc"], records(thrown(make))[1].exc):
        assert said in text.splitlines()[-1]
        assert "File " in text.splitlines()[-4]


def test_error_that_fits_is_shown_as_the_interpreter_shows_it():
    """Causes, contexts, notes, groups, carets: byte for byte."""

    def several():
        try:
            raise KeyError("first") from with_note(10)
        except KeyError:
            raise ExceptionGroup("group", [ValueError("a"), OSError("b")])  # noqa: B904  # its context is the point

    for make in (several, raises(ValueError("one")), lambda: compile("f(", "made_up.py", "exec")):
        exc_info = thrown(make)
        assert error_text(exc_info) == "".join(traceback.format_exception(*exc_info)).rstrip("\n")
        assert texts_of(Error(exc_info))[0] == error_text(exc_info)


def test_chain_that_goes_in_a_circle_ends():
    """Each error is shown once."""
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first

    assert error_text((ValueError, first, None)).count("ValueError: one") == 1


def test_suppressed_context_is_not_shown():
    """`raise … from None` hides what came before, also in a long chain."""
    error = chained(30, is_cause=False)
    error.__suppress_context__ = True

    assert error_text((ValueError, error, None)) == "ValueError: because of it, 29"


class UnshowableError(Exception):
    """An error whose cause cannot be read."""

    @property
    def __cause__(self):
        raise RuntimeError("no")


def test_error_that_cannot_be_read_has_its_type(records):
    """Whatever its own methods raise, there is a line, with the type."""
    line, row = records(thrown(raises(UnshowableError("x"))))

    assert line["exc_type"] == "UnshowableError"
    assert "UnshowableError" in line["exc"]
    assert "UnshowableError" in row.exc


def test_stack_and_traceback_are_both_kept(records):
    """`stack_info` beside an error: its nearest frames too, in line and row, whatever the length of the other."""
    for size in (10, 20_000):
        line, row = records(thrown(raises(ValueError("m" * size))), stack_info=True)
        for text in (line["exc"], row.exc):
            assert "ValueError: mmm" in text
            assert "in nearest_to_the_fault" in text
            assert "Stack (most recent call last):" in text
            assert "in log_it" in text.rpartition("Stack (most recent")[2]


def test_stack_alone_is_kept(records):
    """A stack without an error is the record's `exc`."""
    line, _ = records(None, stack_info=True)

    assert line["exc"].startswith("Stack (most recent call last):")
    assert "exc_type" not in line


def test_secret_at_the_edge_of_a_cut_is_replaced(records):
    """Secrets are searched before the text is cut: no half of one remains, wherever the cut is."""
    secret = "s3cr3t" * 10
    register_secrets([secret])
    for size in range(0, 1_400, 23):
        line, row = records(thrown(raises(ValueError("m" * size + secret + "n" * (1_400 - size)))))
        assert "s3cr3t" not in line["exc"] + line["exc_message"] + row.exc
    line, row = records(thrown(raises(ValueError((secret + "m" * 100) * 3_000))))
    assert "s3cr3t" not in line["exc"] + line["exc_message"] + row.exc


frames = st.builds(
    "".join,
    st.lists(
        st.builds(
            '  File "{}", line {}, in {}\n    {}\n'.format,
            st.text("abc/", min_size=1, max_size=300), st.integers(1, 10**6), st.text("abc", min_size=1, max_size=60),
            st.text("xyz é🜨", min_size=1, max_size=200),
        ),
        max_size=60,
    ),
)  # fmt: skip
sections = st.lists(
    st.builds("Traceback (most recent call last):\n{}Type{}: {}".format, frames, st.integers(0, 9), st.text()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=examples(4), deadline=None)
@given(sections, st.integers(300, 9_000))
def test_any_traceback_fits(texts, limit):
    """Within its bytes, valid text, with the type of the newest error, and the same when it is shortened again."""
    whole = "\n\nDuring handling of the above exception, another exception occurred:\n\n".join(texts)
    whole = whole.encode("utf-8", "replace").decode()
    short = shorten(whole, limit)

    assert len(short.encode()) <= limit
    if len(whole.encode()) <= limit:
        assert short == whole
    assert "Type" in short
    assert shorten(short, limit) == short


def test_traceback_that_others_formatted_is_shortened_alike(records, tmp_path):
    """A text in the record, as another handler's formatter caches it, keeps type, nearest frames and root cause."""
    exc_info = thrown(raises(chained(12, is_cause=True)))
    record = logging.LogRecord(NAME, logging.ERROR, __file__, 1, "failed", (), exc_info)
    record.exc_text = "".join(traceback.format_exception(*exc_info))
    runtime.handler.handle(record)
    row = runtime.recorder.pending_logs()[-1]

    for text in (log_lines(tmp_path)[-1]["exc"], row.exc):
        assert "LookupError: the root of all" in text
        assert "ValueError: because of it, 11" in text
        assert "in nearest_to_the_fault" in text
