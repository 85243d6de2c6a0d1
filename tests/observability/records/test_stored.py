"""The records by name: the same fields as the plain tuples that instruments make, in the same order."""

from __future__ import annotations

from hearthnet.forensics.tables import COLUMNS
from hearthnet.observability.records.record import LOG_COLUMNS, TRACE_COLUMNS
from hearthnet.observability.records.stored import LogRecord, TraceRecord, column_types


def test_names_are_those_of_the_plain_tuples():
    """Code that makes records finds a field by its place there."""
    assert TraceRecord._fields == TRACE_COLUMNS
    assert LogRecord._fields == LOG_COLUMNS


def test_every_column_has_its_type():
    """A column that may be null has two; a row read back is compared with them."""
    types = column_types(TraceRecord)

    assert set(types) == set(COLUMNS["traces"])
    assert types["error"] == (str, type(None))
    assert types["spans"] == (bytes,)
    assert column_types(LogRecord)["ts_us"] == (int,)
