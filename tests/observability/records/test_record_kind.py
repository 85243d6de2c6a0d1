"""Values whose own `__class__` raises, as that of a proxy that is not bound: they come in anywhere; nothing raises."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hearthnet.observability import get_logger, metrics, trace
from hearthnet.observability.records.record import is_a


def _raise(_):
    raise RuntimeError("not bound")


class Unbound:
    """Any question to it raises."""

    __class__ = property(_raise)

    def __str__(self):
        raise RuntimeError("not bound")

    def __eq__(self, _):
        raise RuntimeError("not bound")

    __hash__ = None


class StrangeError(Exception):
    """An error that does not tell its class."""

    __class__ = property(_raise)


def _span(*names, **extras):
    with trace.new_trace("a.b"), trace.span(*names, **extras) as made:
        made.extras[3] = Unbound()


def _setting(**attributes):
    with trace.new_trace("a.b") as made:
        for name, value in attributes.items():
            setattr(made, name, value)


def _failing(*arguments):
    with trace.new_trace("a.b") as made:
        made.fail(*arguments)


def _begun(*names, **ids):
    trace.new_trace(*names, **ids)
    trace.detach()


def _attached():
    trace.attach(Unbound())
    trace.detach()


def _raised():
    try:
        with trace.new_trace("a.b"), trace.span("c"):
            raise StrangeError("x")
    except StrangeError:
        return


USES = {
    "capability": lambda: _begun(Unbound()),
    "trace_id": lambda: _begun("a.b", trace_id=Unbound()),
    "parent_id": lambda: _begun("a.b", parent_id=Unbound()),
    "attach": _attached,
    "name of a span": lambda: _span(Unbound()),
    "extra of a span": lambda: _span("c", item=Unbound()),
    "result": lambda: _setting(result=Unbound()),
    "other results": lambda: _setting(result=["ok"]),
    "extras": lambda: _setting(extras=Unbound()),
    "code": lambda: _failing(Unbound()),
    "message of a failure": lambda: _failing("timeout", Unbound()),
    "exception": _raised,
    "message": lambda: get_logger("app").warning(Unbound()),
    "all fields": lambda: get_logger("app").warning("a", extra=Unbound()),
    "field": lambda: get_logger("app").warning("a", extra={"item": Unbound()}),
    "label": lambda: metrics.counter("kind_total", "x", ["who"]).labels(who=Unbound()).inc(),
    "amount": lambda: metrics.counter("kind_amounts_total", "x").inc(Unbound()),
}


@pytest.mark.parametrize("use", USES)
def test_value_that_tells_no_class_is_recorded(use):
    """Nothing raises, wherever the program passes it."""
    USES[use]()


@pytest.mark.parametrize("make", [Unbound, list, int])
def test_result_that_is_no_text_is_a_failure(make):
    """As one is that is no code."""
    _setting(result=make())

    (recorded,) = trace.get_recent(1)
    assert recorded.result == "internal_error"


def test_kind_is_that_of_the_type():
    """A proxy that calls itself a text is none: no function of texts would take it."""

    class Proxy(SimpleNamespace):
        __class__ = str

    assert isinstance(Proxy(), str)
    assert not is_a(Proxy(), str)
    assert is_a(True, int)
