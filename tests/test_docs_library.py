"""The pages for programs: each program runs in an empty home as it is printed, and shows what is printed below it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support import forkserver
from support.reading import rows
from support.terminal import command_on_terminal

import hearthnet
from hearthnet.config_file import standard_paths
from hearthnet.observability.logs.console import Mode

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("library.md", "coming-from.md")
# What differs from run to run, or from Python to Python.
_CHANGING = [
    (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r"\b[0-9A-Z]{26}\b", "ID"),
    (r"[\d.]+ ms\b", "N ms"),
    (r'"ms":[\d.]+', '"ms":N'),
    (r'File "[^"]*program\.py"', 'File "program.py"'),
    (r"file=\S*program\.py", "file=program.py"),
    (r"(?m)^ *[~^]+\n", ""),
]


class Example(NamedTuple):
    """A program of a page, and what is printed below it; None: nothing is."""

    page: str
    number: int
    program: str
    shown: str | None


def examples() -> list[Example]:
    """Every program of the pages."""
    found = []
    for page in PAGES:
        text = (DOCS / page).read_text("utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```\n(?:\n```console\n(.*?)^```\n)?", text, re.DOTALL | re.MULTILINE)
        found += [Example(page, number, program, shown or None) for number, (program, shown) in enumerate(blocks, 1)]
    return found


def settled(text: str) -> str:
    """A text without what differs."""
    for pattern, instead in _CHANGING:
        text = re.sub(pattern, instead, text)
    return text


@pytest.fixture
def program(tmp_path):
    """Writes a program into a folder of its own."""

    def write(text):
        (tmp_path / "program.py").write_text(text, "utf-8")
        return [sys.executable, "program.py"]

    return write


@pytest.mark.parametrize("example", examples(), ids=lambda example: f"{example.page}-{example.number}")
def test_program_shows_what_is_printed(example, program, tmp_path):
    """On a terminal, without colours."""
    done = command_on_terminal(program(example.program), columns=300, cwd=str(tmp_path), NO_COLOR="1", TZ="UTC")

    assert done.code == 0, done.text
    assert settled(done.text) == settled(example.shown or "")


def test_first_program_without_a_terminal(program, tmp_path, home):
    """Cron mails the warning; both records are in the standard store, the file and the database."""
    done = forkserver.run(program(examples()[0].program), cwd=tmp_path, check=True)

    assert done.stdout == ""
    assert [line.partition(" app: ")[2] for line in done.stderr.splitlines()] == ["disk nearly full  free_gb=1.5"]
    folder = standard_paths().data_dir
    assert folder.is_relative_to(home)
    assert rows(folder / "telemetry.db", "SELECT level, msg FROM logs ORDER BY seq") == [
        ("info", "backup started"),
        ("warning", "disk nearly full"),
    ]


def test_modes_of_the_console_are_listed():
    """The table has exactly those that there are."""
    text = (DOCS / "library.md").read_text("utf-8").partition("## The console")[2].partition("\n## ")[0]

    assert tuple(re.findall(r'^\| `"(\w+)"`', text, re.MULTILINE)) == ("auto", "text", "json", "off")
    assert set(re.findall(r'^\| `"(\w+)"`', text, re.MULTILINE)) == set(Mode.__args__)


def test_names_of_the_package_are_used():
    """Every name that `hearthnet` offers is on the page that explains it."""
    text = "".join((DOCS / page).read_text("utf-8") for page in PAGES)
    taken = {
        name for names in re.findall(r"^from hearthnet import (.+)$", text, re.MULTILINE) for name in names.split(", ")
    }

    assert taken <= set(hearthnet.__all__)
    assert [name for name in hearthnet.__all__ if f"`{name}" not in text and name not in taken] == []


def test_links_lead_somewhere():
    """To a page that exists, and to a heading that it has."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", (DOCS / page).read_text("utf-8")):
            assert not target or (DOCS / target).exists(), target
