"""What an assistant can ask: the same that the commands find, of files that nothing changes."""

from __future__ import annotations

import json

import pytest

from hearthnet.cli.mcp.records import MAX_ROWS, Records
from hearthnet.config import load
from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import HearthNetError
from hearthnet.observability import get_logger, telemetry, trace


@pytest.fixture
def records(config):
    """The records of a program that has ended: two traces, one of which failed, and a log record."""
    with telemetry.open(config.observability):
        with trace.new_trace("job.run"), trace.span("step", size=3):
            get_logger("hearthnet.work").warning("no route [to] host", extra={"n": 1})
        with trace.new_trace("job.late") as late:
            late.fail("timeout", "TimeoutError: late")
    return Records.of(config)


def logs(records, **changes):
    """The lines of the JSON logs that match."""
    wanted = {"level": "info", "component": None, "trace": None, "text": None, "since": None, "until": None}
    return json.loads(records.logs(**{**wanted, "limit": 50, **changes}))


def test_search(records):
    """Finds either table by the fields of the query, and says what there is if nothing matches."""
    (row,) = json.loads(records.search("result:failed since:2h", None, "newest", 20))["rows"]
    assert (row["capability"], row["result"]) == ("job.late", "timeout")
    assert json.loads(records.search("level:warning", None, "newest", 20))["table"] == "logs"
    found = json.loads(records.search("cap:other until:yesterday", None, "newest", 20))
    assert (found["rows"], found["matches"]) == ([], "0")
    assert found["recorded"]["to"] is not None
    assert len(json.loads(records.search("", None, "slowest", 1))["rows"]) == 1


def test_search_that_is_not_understood(records):
    """The place and what to write instead."""
    with pytest.raises(HearthNetError, match="a duration is compared, at 'soon'"):
        records.search("duration:soon", None, "newest", 20)


def test_trace(records):
    """By its place or id, with its spans and when it began."""
    last = json.loads(records.trace("last"))
    before = json.loads(records.trace("-2"))

    assert last["visits"][0]["capability"] == "job.late"
    (visit,) = before["visits"]
    assert [span["name"] for span in visit["spans"]] == ["step"]
    assert visit["started_at"].endswith("Z")
    assert json.loads(records.trace(before["trace_id"].lower())) == before
    for reference in ("zz", "-3", "0", ""):
        with pytest.raises(HearthNetError):
            records.trace(reference)


def test_logs(records):
    """Newest first; a text is no expression, so it takes no time."""
    assert [row["msg"] for row in logs(records)["rows"]][-1] == "no route [to] host"
    (row,) = logs(records, text="ROUTE [TO]", level="warning", component="work", since="1h")["rows"]
    assert row["n"] == 1
    assert logs(records, trace=row["trace_id"].lower()[:20], text="no")["rows"] == [row]
    assert logs(records, until="1h")["rows"] == []
    assert logs(records, limit=1)["has_older"]
    with pytest.raises(HearthNetError, match="someday"):
        logs(records, since="someday")


def test_doctor_and_autopsy(records):
    """One check or all; the end of the run."""
    (check,) = json.loads(records.doctor("telemetry_store"))["checks"]
    assert check["status"] == "pass"
    with pytest.raises(HearthNetError, match="there is no check 'nothing'"):
        records.doctor("nothing")
    assert json.loads(records.autopsy(None, None))["verdict"] == "clean_stop"
    with pytest.raises(HearthNetError):
        records.autopsy("zz", None)


def test_sql_imports_nothing_of_the_folder_it_is_asked_in(records, tmp_path, monkeypatch):
    """An assistant works in repositories of anybody."""
    monkeypatch.chdir(tmp_path)
    for name in ("click", "orjson", "sqlite3", "hearthnet"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

    assert json.loads(records.sql("SELECT 1 AS n", 1))["rows"] == [{"n": 1}]
    assert not (tmp_path / "ran").exists()


def test_sql_is_of_the_settings_that_the_command_was_given(records, monkeypatch, tmp_path):
    """Those of this user may be others, or broken."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "hearthnet").mkdir()
    (tmp_path / "hearthnet" / "config.toml").write_text("[observability]\nno_such_setting = 1\n")
    with pytest.raises(HearthNetError):
        load()

    assert json.loads(records.sql("SELECT count(*) AS n FROM traces", 10))["rows"] == [{"n": 2}]


def test_sql(records):
    """One SELECT, with few rows; what takes for ever is ended."""
    assert json.loads(records.sql("SELECT count(*) AS n FROM traces", 10))["rows"] == [{"n": 2}]
    found = json.loads(records.sql("SELECT 1 FROM traces", 1))
    assert (len(found["rows"]), "note" in found) == (1, True)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM traces", "PRAGMA user_version = 9", "ATTACH 'x.db' AS x", "SELECT 1; SELECT 2", "", "x" * 200_000,
     "SELECT \ud800"],
)  # fmt: skip
def test_sql_that_is_refused(records, statement):
    """Whatever does anything but read."""
    with pytest.raises(HearthNetError):
        records.sql(statement, 10)


def test_nothing_is_changed(records):
    """No file of the store or the logs; SQLite's own two beside it are those of every reader."""

    def files():
        found = {path: path.read_bytes() for folder in (records.data_dir, records.log_dir)
                 for path in folder.rglob("*") if path.is_file()}  # fmt: skip
        return {str(path): content for path, content in found.items() if not path.name.endswith(("-wal", "-shm"))}

    before = files()
    records.search("", None, "newest", 200)
    records.trace("last")
    logs(records)
    records.doctor(None)
    records.autopsy(None, None)

    assert files() == before


def test_folder_of_another_node(records, tmp_path):
    """Its logs are beside the store, and there is no doctor."""
    other = Records.in_folder(records.data_dir)
    assert json.loads(other.trace("last")) == json.loads(records.trace("last"))
    with pytest.raises(HearthNetError, match="another one's"):
        other.doctor(None)
    nothing = Records.in_folder(tmp_path)
    for ask in (lambda: nothing.search("", None, "newest", 1), lambda: nothing.trace("last"), lambda: logs(nothing),
                lambda: nothing.autopsy(None, None), lambda: nothing.sql("SELECT 1", 1)):  # fmt: skip
        with pytest.raises(HearthNetError):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_rows_are_bounded(config):
    """Whatever is asked for."""
    with telemetry.open(config.observability):
        for number in range(MAX_ROWS + 5):
            with trace.new_trace(f"job.n{number}"):
                pass
    found = json.loads(Records.of(config).search("", None, "newest", 100_000))

    assert len(found["rows"]) <= MAX_ROWS + 1
    assert found["rows"][0]["capability"] == f"job.n{MAX_ROWS + 4}"


def test_empty_store(config):
    """A node that has recorded nothing yet."""
    config.observability.data_dir.mkdir(parents=True)
    open_database(config.observability.data_dir / "telemetry.db", TELEMETRY).close()
    records = Records.of(config)

    assert json.loads(records.search("", None, "newest", 5))["rows"] == []
    for ask in (lambda: records.trace("last"), lambda: records.autopsy(None, None)):
        with pytest.raises(HearthNetError):
            ask()
