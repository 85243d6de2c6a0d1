"""The libraries side by side: docs/compared.md, and what is counted of its programs."""

from __future__ import annotations

import re

import pytest
from benchmarks import compared
from benchmarks.compared import PACKAGES, PAGE, Found, Measured, programs, report, written_into

TEXT = PAGE.read_text("utf-8")
IMPORTED = {
    "structlog": "structlog",
    "loguru": "loguru",
    "Logfire": "logfire",
    "OpenTelemetry": "opentelemetry.exporter",
}


def test_page_has_a_program_of_each_library():
    """Which is Python, and every row of the table is one of them."""
    assert programs().keys() == PACKAGES.keys()
    for text in programs().values():
        assert "def order(number, charge):" in text
        compile(text, "program", "exec")
    rows = [line.split("|")[1].strip() for line in TEXT.splitlines() if line.startswith("| ")][1:]
    assert rows == list(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_program_is_measured(name):
    """As it is printed: killed in its last order, and asked what is left."""
    if name in IMPORTED:
        pytest.importorskip(IMPORTED[name])

    found = compared.measure(name, programs()[name], orders=10, pace_s=0, rounds=1, timed=20)

    assert found.caller_us > 0
    assert found.found.spans <= set(range(10)), "the order in progress was not complete"
    assert found.found.records <= set(range(10))
    if name == "HearthNet":
        assert len(found.found.spans) == len(found.found.records) == 10
        assert found.found.knows_last
        assert "paid" in found.terminal[0]
    elif name in ("structlog", "loguru"):
        assert len(found.found.records) == 10
    else:
        assert not found.found.knows_last


def test_program_that_does_not_get_so_far():
    """Is an error with what it said, not a figure."""
    with pytest.raises(RuntimeError, match="no such thing"):
        compared.measure("structlog", "raise SystemExit('no such thing')", orders=1, pace_s=0, rounds=1, timed=20)


WHEN = re.compile(r"^By `scripts/bench compared`, \d+ [A-Z][a-z]+ \d{4}, \d+ cores: HearthNet ", re.MULTILINE)


def test_report_is_written_into_the_page(monkeypatch):
    """In the place of the earlier one, and nothing else changes; it says when that was."""
    monkeypatch.setattr(compared, "version", lambda _: "1.0")  # the peers are no part of the tests' environment
    found = Measured(7, ["shown"], 500, Found({1, 2}, set(), True), 20.4, (19.6, 21.2))
    text = report({"HearthNet": found, "structlog": found})

    assert "| HearthNet | 7 | 2 | - | known | 20 (20-21) |" in text
    assert "    shown" in text
    assert WHEN.search(text)
    assert WHEN.search(PAGE.read_text("utf-8"))
    once = written_into(TEXT, text)
    assert written_into(once, text) == once
    assert once.split("<!-- measured -->")[0] == TEXT.split("<!-- measured -->")[0]
