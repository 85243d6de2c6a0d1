"""The questions of `docs/queries.md`: read from there, asked, and their answers put there again.

`python -m benchmarks.cookbook` brings the answers in the document up to date.
"""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final

from benchmarks.progress import scratch
from benchmarks.sample import NOW, make_store
from hearthnet.cli.telemetry.sql import print_table
from hearthnet.observability.store.query.statement import ask

__all__ = ["DOCUMENT", "Question", "answer", "questions", "with_answers"]

DOCUMENT: Final = Path(__file__).parent.parent.parent / "docs" / "queries.md"
_QUESTION: Final = re.compile(
    r"^### (?P<title>\d+\. [^\n]+)\n(?P<text>.*?)```sql\n(?P<sql>.*?)```\n(?:\n```text\n(?P<answer>.*?)```\n)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the document.

    Attributes:
        title: its number and words.
        sql: how it is asked.
        answer: what the document says that this prints.
    """

    title: str
    sql: str
    answer: str

    @property
    def sql_then(self) -> str:
        """The same at the time when the story of the sample is told."""
        return self.sql.replace("'now'", f"'{NOW}'")


def questions(document: str) -> list[Question]:
    """Returns the questions in their order."""
    return [Question(match["title"], match["sql"], match["answer"] or "") for match in _QUESTION.finditer(document)]


def answer(store: Path, question: Question) -> str:
    """Returns what `hearthnet telemetry sql` prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        print_table(ask(store, question.sql_then, timeout_s=60))
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


def with_answers(document: str, store: Path) -> str:
    """Returns the document with the answers that the store gives."""

    def told(match: re.Match[str]) -> str:
        question = Question(match["title"], match["sql"], "")
        found = answer(store, question)
        return f"### {match['title']}\n{match['text']}```sql\n{match['sql']}```\n\n```text\n{found}```\n"

    return _QUESTION.sub(told, document)


if __name__ == "__main__":
    with scratch() as folder:
        make_store(folder / "telemetry.db")
        DOCUMENT.write_text(with_answers(DOCUMENT.read_text("utf-8"), folder / "telemetry.db"), "utf-8")
