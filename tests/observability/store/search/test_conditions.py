"""The fields, and that docs/search.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.searched import NOW_US

from hearthnet.cli.search import command
from hearthnet.observability.store.search import compile_query
from hearthnet.observability.store.search.conditions import FIELDS

DOCUMENT = (Path(__file__).parents[4] / "docs" / "search.md").read_text("utf-8")
SECTION = DOCUMENT.partition("## Fields\n")[2].partition("\n## ")[0]


def listed(text):
    """The names in the first cells of a table."""
    return {
        name for row in text.splitlines() if row.startswith("| `") for name in re.findall("`(.+?)`", row.split("|")[1])
    }


def test_document_lists_the_fields():
    """Of traces, of log records, and of both."""
    traces, logs, both = map(listed, re.split(r"\nA log record, |\nBoth:", SECTION))
    assert traces | both == FIELDS["traces"].keys()
    assert logs | both == FIELDS["logs"].keys()
    assert not traces & logs


def test_help_lists_the_fields():
    """By their short names."""
    named = set(re.findall(r"\w+", command.help.partition("Fields of traces:")[2].partition("Any other")[0]))
    missing = {name for fields in FIELDS.values() for name in fields} - named
    assert missing == {"capability", "duration_ms", "parent_id", "trace_id", "run_id"}


@pytest.mark.parametrize("table", FIELDS)
def test_examples_of_the_document_are_understood(table):
    """Those of one kind by that kind, all others by both; the one that is wrong is not."""
    written = listed(DOCUMENT.partition("## Fields")[0])
    assert len(written) == 10
    problems = {text: compile_query(text, table, now_us=NOW_US).problems for text in written}
    of_traces = {text for text in written if re.match("-?(result|cap|duration|error)", text)}
    assert {text for text, found in problems.items() if found} == (set() if table == "traces" else of_traces)
    first = re.search(r"```text\n(.*)\n```", DOCUMENT)[1]
    assert compile_query(first, "traces", now_us=NOW_US).problems == []
