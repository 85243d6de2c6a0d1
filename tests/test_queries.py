"""Each query in docs/queries.md prints the documented result."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from contextlib import closing

import pytest
from benchmarks.cookbook import DOCUMENT, answer, questions, with_answers
from benchmarks.sample import make_store

from hearthnet.cli.telemetry.sql import shown
from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.database import connect_read_only
from hearthnet.observability.store.query.statement import ask

QUESTIONS = questions(DOCUMENT.read_text("utf-8"))
STEP = 1_000  # SQLite VM steps, each some ten to a hundred nanoseconds
# The most expensive query takes a third of it; a full scan per row would take a hundred million.
MOST_STEPS = 5_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The store of the document."""
    path = tmp_path_factory.mktemp("cookbook") / "telemetry.db"
    make_store(path)
    return path


@pytest.fixture(scope="module")
def full_store(tmp_path_factory):
    """The same store with full rings."""
    path = tmp_path_factory.mktemp("full") / "telemetry.db"
    make_store(path, TRACE_RING_BUFFER, LOG_RING_BUFFER)
    return path


def test_there_are_twenty():
    """Questions are numbered from 1 to 20, and each has one block of SQL."""
    assert [int(question.title.partition(".")[0]) for question in QUESTIONS] == list(range(1, 21))
    assert DOCUMENT.read_text("utf-8").count("```sql") == len(QUESTIONS)
    assert all(question.title.endswith("?") for question in QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.title)
def test_answer_is_what_the_document_says(store, question):
    """The result is not empty and equals the document's."""
    assert question.answer.count("\n") >= 2
    assert answer(store, question) == question.answer


def test_answers_are_put_where_they_belong(store):
    """Updating the document restores a wrong result and changes nothing else."""
    text = DOCUMENT.read_text("utf-8")
    broken = text.replace(QUESTIONS[3].answer, "what it once was\n")

    assert with_answers(text, store) == text
    assert broken != text
    assert with_answers(broken, store) == text


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="there is no sqlite3 shell here")
def test_sqlite3_shell_says_the_same(store):
    """Every query works unchanged in the sqlite3 shell, with the same values."""
    for question in QUESTIONS:
        done = subprocess.run(
            ["sqlite3", "-readonly", "-csv", "-noheader", "-nullvalue", "NULL", str(store), question.sql_then],
            capture_output=True,
            text=True,
        )
        rows = ask(store, question.sql_then, timeout_s=60).rows
        assert done.stderr == "", question.title
        found = list(csv.reader(done.stdout.splitlines()))
        assert found == [[shown(value) for value in row] for row in rows], question.title


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.title)
def test_full_ring_is_asked_in_few_steps(full_store, question):
    """No query's work is quadratic in the ring; `scripts/bench store --only queries` has the times."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += STEP
        return int(steps > MOST_STEPS)

    with closing(connect_read_only(full_store)) as connection:
        connection.set_progress_handler(count, STEP)
        assert connection.execute(question.sql_then).fetchall()


def test_views_agree_with_the_tables(store):
    """`minutes` and `run_history` count every trace and record."""
    with closing(connect_read_only(store)) as connection:
        traces, failed = connection.execute(
            "SELECT count(*), sum(result NOT IN ('ok', 'cancelled')) FROM traces"
        ).fetchone()
        logs = connection.execute("SELECT count(*) FROM logs").fetchone()[0]
        newest = connection.execute("SELECT ts, ended, end_reason, is_new_boot FROM run_history LIMIT 1").fetchone()

        assert connection.execute("SELECT sum(count), sum(errors) FROM minutes").fetchone() == (traces, failed)
        assert connection.execute("SELECT sum(traces), sum(failed), sum(logs) FROM run_history").fetchone() == (
            traces,
            failed,
            logs,
        )
        assert newest == ("2026-05-26T07:58:10.000Z", None, None, 0)
        assert all(re.fullmatch(r".{16}:00\.000Z", row[0]) for row in connection.execute("SELECT ts FROM minutes"))
