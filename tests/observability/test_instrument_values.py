"""Label values from outside: short, free of secrets, and safe on the page."""

from __future__ import annotations

import enum
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reading import series

from hearthnet.observability import metrics
from hearthnet.observability.declaration import MAX_LABEL_BYTES
from hearthnet.observability.instrument import OTHER
from hearthnet.observability.redaction.rules import REDACTED

ON = SimpleNamespace(metrics_enabled=True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\udcff", "\\udcff"),
        ("a\ud800b", "a\\ud800b"),
        ("é" * 100, None),
        ("x" * 100_000, None),
        ("\0\x1b[31m", None),
        ("", ""),
        (7, "7"),
        (None, "None"),
    ],
)
def test_any_value_leaves_a_page_that_can_be_read(counter, value, shown):
    """A lone surrogate, a megabyte, control characters, what is no text: the page stays, the value is short."""
    counter.labels(value, "s").inc()
    counter.labels(value, "s").inc()

    ((label, _),) = found = series(counter.name)
    assert found[label, "s"] == 2
    assert len(label.encode()) <= MAX_LABEL_BYTES
    assert shown in (None, label)


def test_value_whose_text_raises_breaks_nothing(counter):
    """A label's value may be an object with code of its own."""

    class Bad:
        def __str__(self):
            raise RuntimeError("no")

    counter.labels(Bad(), "s").inc()

    ((label, _),) = series(counter.name)
    assert "RuntimeError" in label


@pytest.mark.parametrize("label", ["api_key", "password", "api-key", "openai_key"])
def test_value_of_a_label_with_a_secrets_name_is_redacted(page, label):
    """As in records: by name, or by name and value; by position, by keyword and as bytes, one series for all."""
    made = page(metrics.counter, label)
    made.labels("sk9f86d081884c7d659a2f").inc()
    made.labels(**{label: b"ak9f86d081884c7d659a2f"}).inc()
    made.labels(ClientToken("tk9f86d081884c7d659a2f")).inc()

    assert series(made.name) == {(REDACTED,): 3}
    assert not any(secret in metrics.exposition()[0] for secret in (b"d081884c", b"9a2f"))


class ClientToken(str):
    """A text of a class of its own."""

    __slots__ = ()


def test_harmless_value_of_an_open_name_stays(page):
    """A key's name is no key; neither is the value of a count of tokens."""
    made = page(metrics.counter, "hot_key", "token_type")
    made.labels("home-page", "prompt").inc()

    assert series(made.name) == {("home-page", "prompt"): 1}


def test_declared_value_of_a_secrets_name_stays(page):
    """A value that the program declares is no secret; any other is not shown either."""
    made = page(metrics.counter, "auth")
    made.allow("auth", ["basic", "none"])
    made.labels("basic").inc()
    made.labels("hunter2hunter2").inc()

    assert series(made.name) == {("basic",): 1, (OTHER,): 1}


def test_redacted_series_can_be_removed(page):
    """By the value that it was counted under."""
    made = page(metrics.gauge, "token", "size")
    made.labels("hunter2hunter2", "s").set(3)
    made.remove("hunter2hunter2", "s")

    assert series(made.name) == {}


def test_secrets_are_in_no_label(counter):
    """A label is on a page that everybody may read."""
    counter.labels("https://user:hunter2hunter2@example.org/", "s").inc()

    assert b"hunter2hunter2" not in metrics.exposition()[0]


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=200), min_size=1, max_size=20))
def test_any_text_counts_and_parses(values):
    """Whatever the values are, the page is UTF-8, parses, and has every count."""
    metrics.configure(SimpleNamespace(metrics_enabled=False))
    metrics.configure(ON)
    made = metrics.counter("hearthnet_test_any_text_total", "Test.", ["kind"])
    for value in values:
        made.labels(value).inc()

    page = metrics.exposition()[0].decode("utf-8")
    lines = [line for line in page.split("\n") if line.startswith("hearthnet_test_any_text_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in lines) == len(values)


class Colour(enum.Enum):
    """No text."""

    RED = "red"


class Word(str, enum.Enum):  # noqa: UP042  # the text of a StrEnum is its value, that of this one is not
    """A text as well."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"red", "red"),
        (bytearray(b"red"), "red"),
        (b"\xff", "\\xff"),
        (Colour.RED, "Colour.RED"),
        (Word.RED, "red"),
        (True, "True"),
        (1.0, "1.0"),
        (["l"], "['l']"),
        ({}, "{}"),
        (TimeoutError("late"), "late"),
    ],
)
@pytest.mark.parametrize("is_text_known", [True, False])
def test_value_is_its_text(counter, value, shown, is_text_known):
    """Whatever was counted before, a value counts under its own text; what has no hash as well."""
    if is_text_known:
        counter.labels(shown, "s").inc(0)
    counter.labels(value, "s").inc()
    counter.labels(kind=value, size="s").inc()

    assert series(counter.name) == {(shown, "s"): 2}


@pytest.mark.parametrize(
    "value", ["a\u2028b", "a\u2029b", "a\x85b", "a\rb", "a\0b", "a\x0bb", "a\x1cb", "a\x7fb", "a\tb"]
)
def test_value_cannot_split_the_page(counter, value):
    """Scrapers that know more line ends than the format, or end texts at NUL, would lose the whole page."""
    counter.labels(value, "s").inc()

    page = metrics.exposition()[0].decode()
    assert len(page.splitlines()) == page.count("\n")
    assert series(counter.name) == {("a?b", "s"): 1}


def test_values_that_differ_by_such_characters_alone_are_one_series(counter):
    """Two samples with the same labels would be no page."""
    counter.labels("a\rb", "s").inc()
    counter.labels("a\0b", "s").inc()

    assert series(counter.name) == {("a?b", "s"): 2}
