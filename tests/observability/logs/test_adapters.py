"""Bound loggers: fields of their own, and otherwise loggers like any."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest
from support.reading import log_lines

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logging import RateLimitedLogger
from hearthnet.observability.logs.adapters import BoundLogger

NAME = "hearthnet.test_adapters"
SECRET = "hunter2hunter2"
OWN = {"ts", "level", "logger", "msg"}


@pytest.fixture
def lines(tmp_path):
    """Logging configured; returns a reader of the lines."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    return lambda: log_lines(tmp_path)


@pytest.fixture
def said(lines):
    """Returns a reader of the fields of each line."""
    return lambda: [{key: line[key] for key in line if key not in OWN} for line in lines()]


@pytest.fixture
def log():
    """A logger."""
    return get_logger(NAME)


def test_every_record_has_the_fields(log, said):
    """Those of the bound logger alone."""
    bound = log.bind(user="ann", n=1)
    bound.info("m", extra={"n": 2, "k": 3})
    bound.info("m")
    log.info("m")

    assert said() == [{"user": "ann", "n": 2, "k": 3}, {"user": "ann", "n": 1}, {}]


def test_it_does_not_change(log, said):
    """`bind` and `unbind` return others; its fields cannot be set."""
    bound = log.bind(a=1)
    more = bound.bind(a=2, b=2)
    less = more.unbind("a", "missing")
    with pytest.raises(TypeError):
        bound.extra["c"] = 3
    for one in (bound, more, less):
        one.info("m")

    assert said() == [{"a": 1}, {"a": 2, "b": 2}, {"b": 2}]


def test_values_are_those_of_the_binding(log, said):
    """A list that grows later does not change the records, nor does what a handler does to them."""
    items = [1]
    bound = log.bind(items=items)
    items.append(2)
    bound.info("m")

    assert said() == [{"items": [1]}]


def test_secrets_are_replaced(log, lines):
    """In the field, and where else the record has the same text."""
    log.bind(password="hunter2hunter2").info("with hunter2hunter2")

    assert (lines()[0]["password"], lines()[0]["msg"]) == ("[redacted]", "with [redacted]")


@pytest.mark.parametrize("name", ["ts", "level", "msg", "exc", "repeats"])
def test_names_of_the_line_are_renamed(log, said, name):
    """As in `extra`."""
    log.bind(**{name: 1}).info("m")

    assert said() == [{f"x_{name}": 1}]


def test_any_name_can_be_bound(log, said):
    """Also those of the method's and the record's own."""
    log.bind(self=1, extra=2, name=3, exc_info=4).info("m")

    assert said() == [{"self": 1, "extra": 2, "name": 3, "exc_info": 4}]


def test_levels_and_exceptions(log, lines):
    """Each method logs at its level, `exception` with the traceback."""
    bound = log.bind(a=1)
    for method in (bound.debug, bound.info, bound.warning, bound.error, bound.critical):
        method("%s of %s", "m", 2)
    bound.log(logging.WARNING, "m")
    try:
        raise KeyError("k")
    except KeyError:
        bound.exception("failed")
        bound.warning("failed", exc_info=True)

    assert [line["level"] for line in lines()] == [
        "info", "warning", "error", "critical", "warning", "error", "warning",
    ]  # fmt: skip
    assert lines()[0]["msg"] == "m of 2"
    assert [line["exc_type"] for line in lines() if "exc" in line] == ["KeyError"] * 2
    assert {line["a"] for line in lines()} == {1}


def test_caller_is_the_programs_line(log, logged):
    """Of every method, and through adapters and `stacklevel`."""

    def helper():
        bound.warning("m", stacklevel=2)

    bound = log.bind(a=1)
    bound.warning("m")
    bound.debug("m") if log.isEnabledFor(logging.DEBUG) else bound.info("m")
    bound.log(logging.ERROR, "m")
    logging.LoggerAdapter(bound, {"b": 2}).error("m")
    helper()

    assert {record.funcName for record in logged} == {"test_caller_is_the_programs_line"}
    assert {record.filename for record in logged} == {"test_adapters.py"}


def test_it_is_a_logger(log, said):
    """Its methods and attributes are the logger's; so does it serve adapters and limited loggers."""
    bound = log.bind(a=1)
    assert bound.name == NAME
    assert bound.isEnabledFor(logging.INFO)
    assert bound.getEffectiveLevel() == log.getEffectiveLevel()
    assert bound.filters is log.filters
    assert bound.getChild("below").name == f"{NAME}.below"
    assert isinstance(bound, logging.LoggerAdapter)
    with pytest.raises(AttributeError):
        bound.inof("m")
    bound.getChild("below").info("m")
    RateLimitedLogger(bound).info("m")
    logging.LoggerAdapter(bound).info("m")

    assert said() == [{"a": 1}] * 3


def test_adapter_around_it_keeps_the_fields(log, said):
    """An adapter of the standard library replaces the call's fields by its own, not the logger's."""
    logging.LoggerAdapter(log.bind(a=1), {"b": 2}).info("m")

    assert said() == [{"a": 1, "b": 2}]


def test_it_is_pickled_with_its_fields(log):
    """As a logger is."""
    bound = pickle.loads(pickle.dumps(log.bind(a=1)))

    assert (bound.logger, dict(bound.extra)) == (log, {"a": 1})


def test_its_text_has_no_values(log):
    """Which may be secret, or long."""
    assert repr(log.bind(password="hunter2hunter2")) == f"<BoundLogger {NAME} password>"


def test_extra_that_is_no_mapping_is_kept(log, said):
    """The bound fields give way to it."""
    log.bind(a=1).info("m", extra=[1, 2])

    assert said() == [{"extra": [1, 2]}]


def test_records_of_a_trace_have_its_id(log, lines):
    """As those of any logger."""
    with trace.new_trace("a.b") as begun:
        log.bind(a=1).info("m")

    assert lines()[0]["trace_id"] == begun.trace_id


def test_loggers_of_a_programs_own_class_can_be_bound(said):
    """Which they keep."""

    class Own(logging.Logger):
        """A program's."""

    before = logging.getLoggerClass()
    logging.setLoggerClass(Own)
    try:
        log = get_logger("hearthnet.test_adapters.own")
    finally:
        logging.setLoggerClass(before)
    bound = log.bind(a=1)
    bound.warning("m")

    assert type(log) is Own
    assert isinstance(bound, BoundLogger)
    assert said() == [{"a": 1}]


def test_it_is_pickled_without_secrets(log):
    """Also without those inside of a value."""
    pickled = pickle.dumps(log.bind(password=SECRET, user={"name": "ann", "token": SECRET}, header=["Cookie", SECRET]))

    assert SECRET.encode() not in pickled
    assert pickle.loads(pickled).extra["user"] == {"name": "ann", "token": "[redacted]"}


@pytest.mark.parametrize("copy_of", [copy.copy, copy.deepcopy])
def test_its_copy_is_itself(log, copy_of):
    """It does not change."""
    bound = log.bind(a=[1])

    assert copy_of(bound) is bound


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET, "step": 1},
        {"steps": [1], "inner": [{"token": SECRET}]},
        ["1", {"api_key": SECRET, "in": {"step": 1}}],
    ],
)
def test_value_with_a_secret_is_copied(log, said, value):
    """A record does not change because what was given changes later, at any depth."""
    bound, before = log.bind(value=value), json.dumps(value).replace(SECRET, "[redacted]")
    for item in (*(value if type(value) is list else value.values()), value):
        if type(item) is dict:
            item.update(step=2)
        if type(item) is list:
            item.append(2)
    bound.info(f"told {SECRET}")

    assert said() == [{"value": json.loads(before)}]
