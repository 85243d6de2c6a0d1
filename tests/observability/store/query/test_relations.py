"""Questions with their SQL, and what can be queried."""

from __future__ import annotations

from contextlib import closing

from benchmarks.cookbook import DOCUMENT
from benchmarks.cookbook import questions as documented
from support.stores import put

from hearthnet.observability.store.query.relations import questions, relations
from hearthnet.observability.store.query.statement import ask
from hearthnet.observability.store.reader import Reader


def test_questions_are_those_of_the_cookbook():
    """In its order and with its SQL, which a test of the document runs."""
    own = [
        (question.title.partition(". ")[2], question.sql.strip())
        for question in documented(DOCUMENT.read_text("utf-8"))
    ]

    assert [(question["title"], question["sql"]) for question in questions()] == own


def test_every_view_and_column_is_described(tmp_path):
    """Names as the database has them; views and their columns all have a meaning, on one line."""
    path = tmp_path / "t.db"
    put(path)
    with closing(Reader(path)) as reader:
        found = relations(reader)

    assert [item["kind"] for item in found] == sorted((item["kind"] for item in found), reverse=True)
    for item in found:
        columns = ask(path, f"SELECT * FROM {item['name']} LIMIT 0", 5).columns
        assert [column["name"] for column in item["columns"]] == list(columns)
        if item["kind"] == "view":
            assert item["comment"]
            assert all(column["comment"] for column in item["columns"]), item["name"]
    (runs,) = (item for item in found if item["name"] == "run_history")
    ended = next(column["comment"] for column in runs["columns"] if column["name"] == "ended")
    assert ended.startswith("end, UTC; of a killed run: when it was last seen;")
    assert ended.endswith("and its records are not recovered yet")
