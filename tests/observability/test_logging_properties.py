"""Any record whatever: one valid line of bounded JSON that says what was said, on both ways, and never an error."""

from __future__ import annotations

import datetime as dt
import logging
import math

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.longer import examples

from hearthnet.config import ObservabilityConfig
from hearthnet.constants import MAX_JSON_LINE_BYTES, MAX_LOG_ROW_BYTES
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logging import get_logger
from hearthnet.observability.logs.daily_file import log_paths
from hearthnet.observability.logs.messages import OWN_KEYS
from hearthnet.observability.redaction.rules import is_secret, scrub
from hearthnet.observability.runtime import runtime

LINE_KEYS = ("ts", "level", "logger", "msg")
CLASHING = ("name", "msg", "args", "message", "exc_info", "levelname", "asctime", "ts", "exc", "trace_id", "extras")
log = get_logger("hearthnet.property")


class UnshowableError(Exception):
    """An error, or a value, that raises when it is shown."""

    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


class Unreadable(dict):
    """A mapping that raises when it is read."""

    def items(self):
        """Raises."""
        raise RuntimeError("no")


def cyclic(value: object) -> list:
    """A list that holds itself, and a dictionary that holds the list."""
    held: list = [value]
    held += [held, {"back": held}]
    return held


class Silent(logging.Handler):
    """Another handler: records go the standard way when it is attached."""

    def emit(self, record):
        """Takes a record."""


@pytest.fixture(params=["direct", "standard"])
def lines(request, tmp_path, monkeypatch):
    """Logging into a temporary folder, on the direct way or the standard one; gives what is new in the file."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, log_level="debug"))
    ours = [handler for handler in logging.getLogger().handlers if isinstance(handler, node_logging.JsonHandler)]
    others = [Silent()] if request.param == "standard" else []
    monkeypatch.setattr(logging.getLogger(), "handlers", [*ours, *others])
    seen = 0

    def read_new() -> list[bytes]:
        nonlocal seen
        content = b"".join(path.read_bytes() for path in log_paths(tmp_path))
        new, seen = content[seen:], len(content)
        assert new.endswith(b"\n")
        return new[:-1].split(b"\n")

    return read_new


odd_text = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cs", "Cc", "Zl", "Zp"])),
    st.sampled_from(["\x1b[31mred\x1b[0m", "a\r\nb", "\u2028\u2029\u0085", "\ud800", "\x7f"]),
    st.builds(str.__mul__, st.sampled_from(["\x00", "🜨", "\ud800"]), st.just(9_000)),
)
scalars = st.one_of(
    odd_text, st.floats(), st.integers(), st.booleans(), st.none(), st.binary(), st.datetimes(), st.timedeltas(),
    st.uuids(), st.decimals(), st.complex_numbers(), st.sampled_from([2**64, -(2**63) - 1, math.nan, dt.UTC]),
    st.builds(pow, st.just(10), st.just(5_000)),
    st.builds(UnshowableError), st.builds(bytearray, st.binary()), st.builds(ValueError, odd_text), st.builds(object),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(odd_text, inner, max_size=4),
        st.builds(cyclic, inner), st.builds(Unreadable, st.just({"a": 1})),
    ),
    max_leaves=12,
)  # fmt: skip
keys = st.one_of(odd_text, st.sampled_from(CLASHING), st.integers(), st.binary(), st.none())
extras = st.one_of(st.dictionaries(keys, values, max_size=8), values)
messages = st.one_of(odd_text, st.builds(UnshowableError), st.integers())
any_record = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=examples(2)
)


def the_line(lines) -> dict:
    """The one new line, checked byte by byte, parsed."""
    (line,) = lines()
    assert len(line) < MAX_JSON_LINE_BYTES
    assert min(line) >= 0x20
    parsed = orjson.loads(line)
    assert tuple(parsed)[:4] == LINE_KEYS
    return parsed


@any_record
@given(messages, st.lists(values, max_size=3), extras, st.booleans())
def test_any_record_is_one_bounded_line_and_row(lines, msg, args, extra, has_error):
    """Whatever the message, its arguments, the fields and the error: no exception, one line, one row in its bounds."""
    failures = node_logging.dropped_lines()
    error = UnshowableError() if has_error else None
    log.warning(msg, *args, extra=extra, exc_info=error)

    parsed = the_line(lines)
    assert parsed["level"] == "warning"
    assert ("exc" in parsed) >= has_error
    assert node_logging.dropped_lines() == failures
    row = runtime.recorder.pending_logs()[-1]
    assert sum(len(item) if isinstance(item, bytes) else len(str(item).encode()) for item in row) <= MAX_LOG_ROW_BYTES
    orjson.loads(row.extras)


plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
plain = st.one_of(
    plain_text, st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1), st.booleans(),
    st.none(),
)  # fmt: skip
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda name: not is_secret(name) and scrub(name) == name and name not in OWN_KEYS
)


@any_record
@given(plain_text, st.dictionaries(names, plain, max_size=12))
def test_plain_fields_come_back_as_they_were(lines, msg, fields):
    """Plain values under harmless names are unchanged in the line and in the row."""
    said = {name: scrub(value) if isinstance(value, str) else value for name, value in fields.items()}
    log.info(msg, extra=fields)

    parsed = the_line(lines)
    assert parsed["msg"] == scrub(msg)
    assert {name: item for name, item in parsed.items() if name not in LINE_KEYS} == said


@any_record
@given(odd_text)
def test_exception_brings_type_message_and_traceback(lines, text):
    """`log.exception` carries `exc_type`, `exc_message` and `exc`, beside the fields."""
    try:
        raise LookupError(text)
    except LookupError:
        log.exception("failed", extra={"n": 1})

    parsed = the_line(lines)
    assert (parsed["level"], parsed["n"], parsed["exc_type"]) == ("error", 1, "LookupError")
    assert isinstance(parsed["exc_message"], str)
    assert "LookupError" in parsed["exc"] or len(text) > 1_000
    if text.isascii() and len(text) <= 200 and scrub(text) == text:
        assert parsed["exc_message"] == text


def test_exception_that_cannot_be_shown(lines):
    """A value whose `__str__` raises is recorded by its type; the other fields are kept."""
    try:
        raise UnshowableError
    except UnshowableError:
        log.exception("failed", extra={"n": 1, "error": UnshowableError()})

    parsed = the_line(lines)
    assert (parsed["exc_type"], parsed["n"]) == ("UnshowableError", 1)
    assert parsed["exc_message"] == "[UnshowableError: str() raised RuntimeError]"
    assert parsed["error"] == "UnshowableError: [UnshowableError: str() raised RuntimeError]"
    assert "UnshowableError" in parsed["exc"]


def test_odd_fields_are_told_on_both_ways(lines):
    """Fields that clash, go in circles or cannot be read stand in the line, each as what can be kept of it."""
    log.info(
        "odd", extra={"name": "n", "level": "x", "args": (1,), "loop": cyclic(1), "raw": b"\xff", "bad": Unreadable()}
    )

    parsed = the_line(lines)
    assert (parsed["name"], parsed["x_level"], parsed["args"]) == ("n", "x", [1])
    assert parsed["loop"][0] == 1
    assert parsed["raw"] == "b'\\xff'"
    assert "Unreadable" in str(parsed["bad"]) or parsed["bad"] == {}
