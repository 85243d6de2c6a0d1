"""`hearthnet search`: arguments, what it prints, and what it says when it finds nothing or does not understand."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from support.searched import a_span, log, trace, write
from support.terminal import on_terminal

from hearthnet.cli.main import _run
from hearthnet.locations import locate

NOW_US = time.time_ns() // 1_000
HOUR_US = 3_600_000_000


@pytest.fixture
def search(capsys, monkeypatch):
    """Runs the command; returns exit code, standard output and standard error."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    def run(*arguments):
        code = _run(["search", *arguments])
        return code, *capsys.readouterr()

    yield run
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def found(search):
    """Runs the command with --json; returns the last parts of the ids of the traces, or the messages."""

    def run(*arguments):
        code, out, _ = search("--json", *arguments)
        assert code == 0
        return [
            row["trace_id"][-1] if "trace_id" in row and "msg" not in row else row["msg"] for row in json.loads(out)
        ]

    return run


@pytest.fixture
def store(made):
    """A copy of that store, as this home's own."""
    path = locate().data_dir / "telemetry.db"
    path.parent.mkdir(parents=True, mode=0o700)
    return shutil.copy(made, path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three traces, of three hours and two programs, and two log records."""
    start = {number: NOW_US - (4 - number) * HOUR_US for number in (1, 2, 3)}
    an_id = "01HXR4Z6W5S9E2JQ4Y0T7B3M0{}".format
    return write(
        tmp_path_factory.mktemp("searched") / "telemetry.db",
        trace(1, [a_span("load_model", model="tiny")], trace_id=an_id(1), started_us=start[1], error="E: no route"),
        trace(2, trace_id=an_id(2), started_us=start[2], result="timeout", run_id="cron", duration_ms=2_500.0),
        trace(3, extras={"text": "a b"}, trace_id=an_id(3), started_us=start[3], capability="llm.chat"),
        log(4, {"peer": "x"}, ts_us=start[3], level="warning", msg="no route", logger="hearthnet.bus"),
        log(5, ts_us=NOW_US, msg="second", exc="Traceback\nValueError"),
    )


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "321"),
        (["-n", "1"], "3"),
        (["-n2"], "32"),
        (["result:timeout"], "2"),
        (["-result:timeout"], "31"),
        (["-n", "5", "-name:x", "-result:timeout"], "31"),  # -name:x is no -n
        (["-json:x", "--", "-timeout"], "31"),
        (["model:tiny", "no", "route"], "1"),
        (["error:no route", "cap:a.b"], "1"),  # the shell has removed the quotes of one of several arguments
        (["error:route no", "cap:a.b"], ""),
        (["text:a b", "-x y"], "3"),
        (['cap:a.b "no route"'], "1"),
        (["--order", "slowest"], "231"),
        (["--program", "cron.py"], "2"),
        (["--since", "150m"], "32"),
        (["--until", "150m", "duration:<1s"], "1"),
        (["since:90m"], "3"),
    ],
)
def test_arguments_are_a_query(found, arguments, expected):
    """Terms that begin with - are no options."""
    assert "".join(found(*arguments)) == expected


@pytest.mark.usefixtures("store")
def test_traces_are_shown_as_trace_recent_shows_them(search, capsys):
    """And log records as `log` does; what is not shown is counted on standard error."""
    code, out, err = search("cap:a.b,llm.chat")
    assert _run(["trace", "recent"]) == 0
    assert (code, out, err) == (0, capsys.readouterr().out, "")

    code, out, err = search("-n", "1", "route")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err == "1 log record matches: add --logs\n"
    assert search("-n", "1")[2] == "1 of 3 traces: -n shows more\n"

    code, out, err = search("--logs")
    first, second, *traceback = out.splitlines()
    assert first.endswith("+00:00 warning hearthnet.bus: no route  peer=x")
    assert second.endswith("+00:00 info    x: second")
    assert (code, err, traceback) == (0, "", ["    Traceback", "    ValueError"])


@pytest.mark.usefixtures("store")
def test_query_of_logs_needs_no_option(search, found):
    """If a field is of log records only; then traces are counted, if they can have the field."""
    assert found("level:>=warning") == ["no route"]
    assert search("level:info logger:x")[2] == ""
    assert found("--logs", "route") == ["no route"]
    code, _, err = search("--traces", "level:info")
    assert (code, err.splitlines()[0]) == (2, "error: level is a field of log records, not of traces")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("query", ["peer:x", "second"])
def test_log_records_are_shown_where_only_they_match(search, query):
    """A script that reads JSON gets rows of one kind, whatever matches."""
    assert search(query) == (0, search("--logs", query)[1], "no traces match, only log records\n")
    code, out, err = search("--json", query)
    assert (code, out) == (0, "[]\n")
    assert err.endswith("1 log record matches: add --logs\n")
    assert search("--order", "slowest", query)[2].startswith("no traces match from ")
    assert search("--traces", query)[1] == ""


def test_store_of_one_moment(search):
    """A range from a time to the same is none."""
    write(locate().data_dir / "telemetry.db", trace(1, started_us=1_000_000, duration_ms=0.0))
    assert search("result:expired")[2].startswith("no traces match at 1970-01-01 00:00:01.000+00:00\n")


@pytest.mark.usefixtures("store")
def test_problem_is_pointed_at(search):
    """Each with its hint; nothing is searched."""
    code, out, err = search("ok", "result:timout", "\x1b[31m", "duration:2s")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: there is no result 'timout'",
        "  ok result:timout \\u001b[31m duration:2s",
        "            ^^^^^^",
        "hint: did you mean timeout?",
        "error: a duration is compared",
        "  ok result:timout \\u001b[31m duration:2s",
        "                                       ^^",
        "hint: duration:>=2s, or duration:<2s",
    ]


def test_place_in_a_long_and_wide_query(search):
    """Characters may take two columns; only what is around the place is shown."""
    _, _, err = search("接続 " + "x" * 60 + ' "open ' + "y" * 60)
    _, line, marks, _ = err.splitlines()
    assert line == "  …" + "x" * 39 + ' "open ' + "y" * 60
    assert marks == "  " + " " * 41 + "^" * 66
    assert search('接続 "')[2].splitlines()[1:3] == ['  接続 "', "       ^"]


@pytest.mark.usefixtures("store")
def test_empty_result_says_what_was_searched(search):
    """It is no error."""
    code, out, err = search("result:expired")
    assert (code, out) == (0, "")
    assert err.startswith("no traces match from ")
    code, out, err = search("--json", "result:timeout", "since:30m")
    assert (code, out) == (0, "[]\n")
    said, newest = err.splitlines()
    assert said.startswith("no traces match since ")
    assert "; the store has those from " in said
    assert newest.startswith("the newest match outside of that ended at ")
    _, _, err = search("modle:tiny")
    assert err.splitlines()[1:] == [
        "note: no recent trace has the attribute modle", "  modle:tiny", "  ^^^^^^^^^^", "hint: did you mean model?",
    ]  # fmt: skip
    _, _, err = search("result:timeout", "until:2020-01-01")
    assert err.startswith("no traces match until 2020-01-01 00:00:00.000+00:00; the store has those from ")


def test_store_is_missing_or_empty(search):
    """Says so as other commands do."""
    assert search("x")[0] == 1
    write(locate().data_dir / "telemetry.db")
    assert search("x") == (0, "", "no traces match: the store has none\n")


@pytest.mark.usefixtures("store")
def test_sql_is_printed_and_runs(search, capsys, monkeypatch, tmp_path):
    """`telemetry sql -` takes it, with the options of the command in it."""
    code, sql, _ = search("--sql", "-ошибка", "--program", "cron.py", "-n", "7")
    assert (code, sql.splitlines()[-1].strip()) == (0, "LIMIT 7")
    (tmp_path / "query.sql").write_text(sql, "utf-8")
    with (tmp_path / "query.sql").open("rb") as file:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": file}))
        assert _run(["telemetry", "sql", "--json", "-"]) == 0
    assert [row["result"] for row in json.loads(capsys.readouterr().out)] == ["timeout"]


def test_log_records_have_no_duration(search):
    """So they have no slowest."""
    code, _, err = search("--logs", "--order", "slowest")
    assert (code, "is for traces" in err) == (2, True)


@pytest.mark.usefixtures("store")
def test_narrow_terminal_keeps_ids_whole():
    """As `trace recent` does."""
    code, text, _ = on_terminal("search", "llm*", columns=80)
    assert code == 0
    assert "01HXR4Z6W5S9E2JQ4Y0T7B3M03" in text


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("duration>5s", "hint: a field is written with a colon: duration:>5s\n"),
        ("no result=ok", "hint: a field is written with a colon: result:ok\n"),
        ("a>=b", "hint: a field is written with a colon: a:>=b\n"),
        ('"duration>5s"', ""),
        ("zzz", ""),
    ],
)
def test_field_as_other_tools_write_it(search, query, said):
    """It is a word here; when nothing has it, the way to write the field is shown."""
    code, out, err = search(query)

    assert (code, out) == (0, "")
    assert err.partition("\n")[2] == said


@pytest.mark.usefixtures("store")
def test_field_as_other_tools_write_it_beside_a_match_of_another_time(search):
    """Both are told."""
    err = search("-zz=1", "result:timeout", "since:30m")[2]
    assert "the newest match outside of that ended at" in err
    assert err.endswith("hint: a field is written with a colon: zz:1\n")


@pytest.mark.usefixtures("store")
def test_problem_is_that_of_the_table_that_understands_more(search):
    """Without --traces or --logs: a wrong value of a field of log records is no field of the wrong table."""
    assert "there is no level 'eror'" in search("level:eror")[2]
    assert "there is no result 'okk'" in search("result:okk")[2]
    assert "until" in search("zzz", "since:5m", "until:10m")[2].partition(" is before since ")[0]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "words", ["search --program cron", "search --logs --program cron", "trace recent --program cron"]
)
def test_unknown_program_is_told_with_those_that_are(words, capsys):
    """Names are file names, with their endings."""
    assert _run(words.split()) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "no program has the name 'cron'; known are cron.py, run.py"


def test_range_of_a_store_is_of_time(search):
    """Of all its records: one that was committed first may have ended last."""
    write(
        locate().data_dir / "telemetry.db",
        trace(1, trace_id="01HXR4Z6W5S9E2JQ4Y0T7B3M01", started_us=3_000_000),
        trace(2, trace_id="01HXR4Z6W5S9E2JQ4Y0T7B3M02", started_us=1_000_000),
    )
    assert "from 1970-01-01 00:00:01.0" in search("zzz")[2]
    assert " to 1970-01-01 00:00:03.0" in search("zzz")[2]
