"""The manual pages are what man and mandoc accept without a warning, and have what the help has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import click
import pytest
from support import forkserver

from hearthnet.cli.main import cli
from hearthnet.cli.tools.man import page, pages

PAGES = dict(pages())


def needs(program: str):
    """Skips a test where a program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not here (apt-get install)")


def flat(text: str) -> str:
    """A text without line breaks and hyphenation."""
    return " ".join(re.sub(r".\x08", "", text).split())


def test_each_command_has_a_page():
    """Groups and their commands, by the names that `man` takes."""
    assert {"hearthnet.1", "hearthnet-trace.1", "hearthnet-trace-show.1", "hearthnet-tools-man.1"} <= PAGES.keys()
    assert len(PAGES) > len(cli.list_commands(click.Context(cli)))
    for text in PAGES.values():
        assert text.startswith(".TH HEARTHNET")
        for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS"):
            assert f".SH {section}\n" in text


@needs("mandoc")
def test_mandoc_has_nothing_to_say(tmp_path):
    """`mandoc -T lint` finds neither errors nor warnings in any page."""
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text, "utf-8")
    files = sorted(tmp_path.glob("*.1"))
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *files], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs("man")
def test_man_shows_a_page(tmp_path):
    """`man -l` renders what the help says, without a warning."""
    path = tmp_path / "hearthnet-trace-show.1"
    path.write_text(PAGES[path.name], "utf-8")
    done = subprocess.run(
        ["man", "--warnings=w", "-l", str(path)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)},
    )

    shown = flat(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hearthnet-trace-show - Show one trace as a waterfall" in shown
    assert "hearthnet trace show [OPTIONS] ID" in shown
    assert "--json Print JSON instead of text." in shown
    assert "hearthnet trace show last hearthnet trace show 01HXR4Z6W5S9" in shown


@needs("groff")
def test_groff_has_no_warning(tmp_path):
    """All pages, with all of groff's warnings."""
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", "-Kutf8"],
        input="".join(PAGES.values()),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_hostile_text_is_text():
    """Requests, escapes and quotes of roff in a help text are shown as they are."""
    evil = click.Command("evil", help='.so /etc/passwd\n\n\'nf\\*[x] -- "quoted" `code` ~^ …')
    text = page(("evil",), evil)

    assert "\n.so" not in text
    assert "\n'" not in text
    assert "\\&.so /etc/passwd" in text
    assert "\\(aqnf\\e*[x] \\-\\- \\(dqquoted\\(dq \\(gacode\\(ga \\(ti\\(ha \\[u2026]" in text
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=text, capture_output=True, text=True)
        assert done.stderr == ""
        assert ".so /etc/passwd" in done.stdout


def test_pages_are_written_to_a_folder(tmp_path):
    """`--out` writes all of them; a COMMAND is one page, and an unknown one an error."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forkserver.run([sys.executable, "-m", "hearthnet", "tools", "man", *arguments])

    made = run("--out", str(tmp_path / "share" / "man1"))
    assert (made.returncode, made.stdout) == (0, "")
    assert {path.name for path in (tmp_path / "share" / "man1").iterdir()} == PAGES.keys()
    assert run("trace", "show").stdout == PAGES["hearthnet-trace-show.1"]
    unknown = run("trace", "nonsense")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "there is no command 'nonsense'" in unknown.stderr
    assert run("--out", str(tmp_path), "trace").returncode == 2
