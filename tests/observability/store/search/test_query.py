"""Queries as SQL: what each field finds, what is refused, and that the SQL shown finds the same."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.searched import NOW_US, a_span, log, seqs, trace, write

from hearthnet.observability.store.query.statement import ask
from hearthnet.observability.store.search import compile_query, run_query
from hearthnet.observability.store.search.language import term
from hearthnet.observability.store.search.query import pasted
from hearthnet.observability.store.search.select import statement

HOSTILE = [
    'C:\\t "x":-1', "'; DROP TABLE traces; --", "<img src=x onerror=alert(1)>", "\x1b[31mred\x1b[0m", "a\nb", "a\\nb",
    "\u202eabc\u2066", "100%", "a_c", "abc", "Straße", "ОШИБКА", "ﬁ", "{\"a\":1}", "?", "a?b", "*", "'", "\u2028", "🙂",
]  # fmt: skip


def first_problem(text, table="traces"):
    """The message, the place and the hint."""
    problem = compile_query(text, table, now_us=NOW_US).problems[0]
    return problem.message, text[problem.start : problem.end], problem.hint


def test_moment_of_each_time_is_told():
    """Of a relative one too, and of one that is negated; other terms have none."""
    found = compile_query("since:2h -until:1970-01-01T00:00:01Z cap:x since:soon", "traces", now_us=NOW_US)

    assert {one.text: us for one, us in found.moments.items()} == {
        "since:2h": NOW_US - 7_200_000_000,
        "-until:1970-01-01T00:00:01Z": 1_000_000,
    }


# --- traces


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Five traces: 1 to 5."""
    return write(
        tmp_path_factory.mktemp("traces") / "telemetry.db",
        trace(1, [a_span("find"), a_span("load_model", model="tiny", name="inner")], {"caller": "Anna", "n": 7}),
        trace(2, [a_span("load_model", model="TINY", tokens=512)], capability="llm.chat", duration_ms=2_500.0),
        trace(3, extras={"stream": True, "ratio": 0.5, "gone": None}, result="timeout", error="Timeout: no route"),
        trace(4, "", {"text": "line\nnew"}, run_id="cron", result="cancelled", trace_id="01HXR4Z6W5S9E2JQ4Y0T7B3M1C"),
        trace(
            5,
            [a_span("Größe", **{"odd key": "x", "extras": {"extras": {"deeper": 1}}})],
            {"tags": ["red", "blue"], "in": {"deep": "Ж"}},
            version="1.0",
        ),
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [5, 4, 3, 2, 1]),
        ("result:timeout", [3]),
        ("result:TIMEOUT,cancelled", [4, 3]),
        ("result:failed", [3]),
        ("-result:failed", [5, 4, 2, 1]),
        ("cap:llm.chat", [2]),
        ("capability:LLM.*", [2]),
        ("version:1.0", [5]),
        ("-version:1.0", [4, 3, 2, 1]),
        ("error:ROUTE", [3]),
        ("-error:route", [5, 4, 2, 1]),
        ("error:*", [3]),
        ("duration:>2s", [2]),
        ("duration:>=2500 duration:<=2.5s", [2]),
        ("duration_ms:<2500ms", [5, 4, 3, 1]),
        ("-duration:<1m", []),
        ("span:load_model", [2, 1]),
        ("span:LOAD*", [2, 1]),
        ("span:größe", [5]),
        ("span:inner", []),  # the name in a span's extras is no span's
        ("-span:load_model", [5, 4, 3]),
        ("model:tiny", [2, 1]),
        ("-model:tiny", [5, 4, 3]),
        ("model:*", [2, 1]),
        ("Model:tiny", []),  # names are exact
        ("caller:anna", [1]),
        ("n:7", [1]),
        ("n:7.0", [1]),
        ("tokens:>500", [2]),
        ("tokens:>=512 tokens:<513", [2]),
        ("ratio:.5", []),
        ("ratio:0.50", [3]),
        ("stream:true", [3]),
        ("stream:1", []),
        ("gone:null", [3]),
        ('"odd key":x', [5]),
        ("deeper:1", []),  # nor is what lies deeper
        ("deep:Ж", []),
        ("extras:*", [5]),
        ('"result":timeout', []),  # an attribute of that name
        ("tags:red", []),  # a list is compared as its JSON
        ("program:cron.py", [4]),
        ("program:run*", [5, 3, 2, 1]),
        ("trace:01hxr4", [4]),
        ("trace:01HXR4Z6W5S9E2JQ4Y0T7B3M1C", [4]),
        ("-trace:01", [5, 3, 2, 1]),
        ("timeout", [3]),
        ("LOAD", [2, 1]),
        ("-load", [5, 4, 3]),
        ("inner", []),  # a word is not looked for in a span's extras
        ('"no route"', [3]),
        ("no route", [3]),
        ("n=7", [1]),
        ("stream=true", [3]),
        ("blue", [5]),
        ("ж", [5]),
        ("ГРУ", []),
        ("new", [4]),
        ('"line\\nnew"', [4]),
        ('"\\\\n"', []),
        ("status", []),  # JSON's own texts are no content
        ("offset_ms", []),
        ("since:1970-01-01T00:00:03Z", [5, 4, 3, 2]),  # the second ended a moment after the fourth began
        ("until:1970-01-01T00:00:03Z", [1]),
        ("-since:1970-01-01T00:00:03Z", [1]),
    ],
)
def test_field_of_traces(traces, text, found):
    """Newest first."""
    assert seqs(traces, text) == found


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Four log records: 1 to 4."""
    return write(
        tmp_path_factory.mktemp("logs") / "telemetry.db",
        log(1, {"peer": "X"}, logger="hearthnet.bus"),
        log(2, logger="hearthnet.bus.x", level="warning", msg="no route", span_id="00ff", trace_id="01HXR4"),
        log(3, logger="hearthnet.business", level="error", exc="Traceback\nZeroDivisionError: by zero", run_id="01R"),
        log(4, logger="cron", level="debug"),
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("level:warning", [2]),
        ("level:>=warning", [3, 2]),
        ("level:>warning", [3]),
        ("level:<warning", [4, 1]),
        ("level:<=info", [4, 1]),
        ("level:<debug", []),
        ("-level:ERROR", [4, 2, 1]),
        ("logger:hearthnet.bus", [1]),
        ("component:bus", [2, 1]),
        ("component:hearthnet.bus,cron", [4, 2, 1]),
        ("msg:ROUTE", [2]),
        ("exc:ZeroDivision", [3]),
        ("-exc:*", [4, 2, 1]),
        ("zero", [3]),
        ("bus", [3, 2, 1]),
        ("peer:x", [1]),
        ("peer=X", [1]),
        ("span_id:00ff", [2]),
        ("trace:01HX", [2]),
        ("-trace:01HX", [4, 3, 1]),
        ("run:01", [3]),
        ("program:01r.py", [3]),
        ("since:1970-01-01T00:00:02Z until:1970-01-01T00:00:03Z", [2]),
    ],
)
def test_field_of_logs(logs, text, found):
    """Newest first."""
    assert seqs(logs, text, "logs") == found


def test_time_is_before_the_present(tmp_path):
    """An age counts back from the moment that is given."""
    path = write(
        tmp_path / "telemetry.db", *(log(number, ts_us=NOW_US - number * 60_000_000) for number in range(1, 4))
    )
    assert seqs(path, "since:2m", "logs") == [2, 1]
    assert seqs(path, "until:90s since:1h", "logs") == [3, 2]


# --- problems


@pytest.mark.parametrize(
    ("text", "table", "message", "place", "hint"),
    [
        ("ok result:timout", "traces", "there is no result 'timout'", "timout", "did you mean timeout?"),
        ("result:ok,nonsense", "traces", "there is no result 'nonsense'", "nonsense", "there are: "),
        ("level:>=warn", "logs", "there is no level 'warn'", "warn", "did you mean warning?"),
        ("level:debug", "traces", "level is a field of log records, not of traces", "level:debug", '"level":…'),
        ("cap:a", "logs", "cap is a field of traces, not of log records", "cap:a", '"cap":…'),
        ("duration:2s", "traces", "a duration is compared", "2s", "duration:>=2s"),
        ("duration:>2x", "traces", "'2x' is no duration", "2x", "150ms"),
        ("duration:>-1s", "traces", "'-1s' is no duration", "-1s", "150ms"),
        ("since:nonsense", "logs", "'nonsense' is not a time", "nonsense", "use 90m"),
        ("since:>2h", "logs", "a time takes no comparison", "2h", "until:TIME"),
        ("since:1h,2h", "logs", "since takes one time", "since:1h,2h", None),
        ("trace:last", "traces", "'last' is no id, nor the beginning of one", "last", "26 letters"),
        ("run:é", "traces", "'é' is no id, nor the beginning of one", "é", "26 letters"),
        ("cap:>3", "traces", "> is for numbers, durations and levels", "3", None),
        ("tokens:>many", "traces", "'many' is no number", "many", "attributes are compared with numbers"),
        ("\udcff", "traces", "the text is not Unicode", "\udcff", None),
        ('"\udcff":x', "traces", "the name is not Unicode", '"\udcff":x', None),
    ],
)
def test_value_that_a_field_does_not_take(text, table, message, place, hint):
    """It is named, with its place, and mostly with what to write."""
    said, where, helping = first_problem(text, table)
    assert (said, where) == (message, place)
    assert hint is None or hint in helping


@given(st.text(max_size=80) | st.text('"\\:-,*<>=' + "tracesulvdon0 ", max_size=40))
def test_no_text_raises(text):
    """Whatever is typed, there is a query or a problem."""
    for table in ("traces", "logs"):
        made = compile_query(text, table, now_us=NOW_US)
        assert made.where.count("?") == len(made.values)


# --- values, and the SQL that is shown


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A trace for each hostile text: in an error, an attribute, a span's attribute and name."""
    return write(
        tmp_path_factory.mktemp("hostile") / "telemetry.db",
        *(
            trace(
                number,
                [a_span(text, own=text)],
                {"k": text, text: "named"},
                error=text,
                capability=text,
                result="timeout",
            )
            for number, text in enumerate(HOSTILE, start=1)
        ),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_value_finds_exactly_its_rows(hostile, text):
    """Wherever it is; and the SQL that is shown finds the same, in the sqlite3 shell too if it is ASCII."""
    own = [number for number, other in enumerate(HOSTILE, start=1) if other.casefold() == text.casefold()]
    parts = [number for number, other in enumerate(HOSTILE, start=1) if _contains(other, text)]
    attributes = [
        term("k", text),
        term("own", text),
        term(text, "named", is_attribute=True),
        term("cap", text),
        term("span", text),
    ]
    for query in attributes:
        assert seqs(hostile, query) == own, query
        assert seqs(hostile, f"-{query}") == [n for n in range(len(HOSTILE), 0, -1) if n not in own], query
    assert seqs(hostile, term("error", text)) == parts[::-1]
    for query in [*attributes, term("error", text), term(None, text)]:
        made = compile_query(query, "traces", now_us=NOW_US)
        shown = statement(made, "newest", 100)
        found = [row["seq"] for row in run_query(hostile, made).rows]
        assert [row[0] for row in ask(hostile, shown, timeout_s=60).rows] == found
        assert shown.isprintable() or set(filter(lambda letter: not letter.isprintable(), shown)) == {"\n"}


def _contains(other, text):
    fold = str.lower if text.isascii() else str.casefold
    return fold(text) in fold(other)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="there is no sqlite3 shell here")
@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isascii()])
def test_shown_sql_can_be_pasted_into_the_shell(hostile, text):
    """It needs no function that SQLite lacks."""
    query = term("k", text)
    shown = statement(compile_query(query, "traces", now_us=NOW_US), "newest", 100)
    done = subprocess.run(["sqlite3", "-readonly", str(hostile)], input=f"{shown};", capture_output=True, text=True)
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.partition("|")[0].isdigit()]
    assert [int(line.partition("|")[0]) for line in lines] == seqs(hostile, query)


def test_letters_beyond_ascii_are_compared_in_any_case(hostile):
    """ASCII words find ASCII letters; others find whatever has the same case folding."""
    assert seqs(hostile, "error:ошибка") == [HOSTILE.index("ОШИБКА") + 1]
    assert seqs(hostile, "error:STRAßE") == [HOSTILE.index("Straße") + 1]
    assert seqs(hostile, "error:strasse") == []
    assert "casefold" not in compile_query("error:strasse", "traces", now_us=NOW_US).where


TYPED = st.integers(-(10**12), 10**12).map(lambda number: number / 1_000)  # SQLite reads long fractions less exactly


@given(st.text(st.characters(codec="utf-8")) | st.integers(-(2**60), 2**60) | TYPED)
def test_pasted_value_is_the_bound_one(value):
    """As SQLite itself reads it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute(pasted("SELECT ?", [value])).fetchone() == (value,)


def test_anytime_is_the_query_without_its_times():
    """And its bounds are the narrowest."""
    made = compile_query("since:1h result:ok until:10m since:30m", "traces", now_us=NOW_US)
    assert made.anytime is not None
    assert (made.anytime.sql, made.anytime.values) == ("result = ?", ("ok",))
    assert (made.since_us, made.until_us) == (NOW_US - 1_800_000_000, NOW_US - 600_000_000)
    assert compile_query("result:ok", "traces", now_us=NOW_US).anytime is None
    assert compile_query('"since":x', "traces", now_us=NOW_US).anytime is None
    assert compile_query("since:1h", "logs", now_us=NOW_US).anytime.sql == "1"
