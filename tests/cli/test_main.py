"""The group of commands: suggestions, interruptions, and how values are printed."""

from __future__ import annotations

import json
import re

import click
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from hearthnet.cli import main
from hearthnet.cli.main import _run, as_json_text, fields_text, print_json, wrapped


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("logs", "log"), ("traces", "trace"), ("docter", "doctor"), ("stat", "status"), ("path", "paths"),
        ("info", "telemetry info"), ("sql", "telemetry sql"), ("recent", "trace recent"), ("level", "log level"),
        ("trace recnt", "recent"), ("trace shw last", "show"), ("telemetry purg --all", "purge"),
        ("log levle", "level"),
    ],
)  # fmt: skip
def test_wrong_command_gets_a_suggestion(words, meant, capsys):
    """In every group; a sub-command is found by its own name."""
    assert _run(words.split()) == 2
    said = capsys.readouterr()
    wrong = words.split()[0 if " " not in words else 1]
    assert (said.out, said.err.splitlines()[-1]) == (
        "",
        f"Error: there is no command {wrong!r}; did you mean {meant}?",
    )


@pytest.mark.parametrize("words", ["xyzzy", "trace xyzzy", "telemetry 8080", "log xyzzy"])
def test_nonsense_gets_none(words, capsys):
    """Nothing is suggested that is not alike."""
    assert _run(words.split()) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("; see --help")


@pytest.mark.parametrize(
    "words", ["trace --jsno", "telemetry --jsno", "log --jsno", "--jsno", "trace show last --jsno"]
)
def test_wrong_option_is_a_usage_error(words, capsys):
    """Also in groups that take -2 for a trace."""
    assert _run(words.split()) == 2
    assert "--jsno" in capsys.readouterr().err


def test_help_is_for_nodes_and_for_programs(capsys):
    """It says how each begins, on a terminal of 80 columns, and names only commands that there are."""
    assert _run(["--help"]) == 0
    said = capsys.readouterr().out
    about = said[: said.index("Options:")]

    assert "hearthnet init && hearthnet run" in about
    assert "telemetry.keep_open()" in about
    assert max(map(len, about.splitlines())) <= 80
    (for_nodes,) = (line for line in about.splitlines() if line.endswith("for a node alone."))
    named = re.findall(r"\w+", for_nodes.partition(" are ")[0].replace(" and ", " "))
    assert len(named) == 6
    assert set(named) <= set(main.COMMANDS)


def interrupted(*_, **__):
    """What Ctrl-C raises."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("words", ["paths", "version", "trace recent", "log", "telemetry info", "doctor --list"])
def test_interruption_is_silent(words, monkeypatch, capsys):
    """Ctrl-C ends any command with 130 and without a word."""
    monkeypatch.setattr(click.Context, "invoke", interrupted)
    assert _run(words.split()) == 130
    assert capsys.readouterr() == ("", "")


def test_interruption_of_a_question_is_silent(monkeypatch, capsys):
    """So does Ctrl-C at a question; whoever says no is told that nothing was done."""
    monkeypatch.setattr(click.termui, "visible_prompt_func", interrupted)
    monkeypatch.setattr(main.cli, "invoke", lambda _: click.confirm("Sure?", abort=True))
    assert _run(["version"]) == 130
    assert "aborted" not in capsys.readouterr().err

    monkeypatch.setattr(click.termui, "visible_prompt_func", lambda _: "n")
    assert _run(["version"]) == 2
    assert capsys.readouterr().err.endswith("aborted\n")


def nested(depth, kind=list):
    """Returns so many lists or objects in each other, as JSON."""
    return "[" * depth + "]" * depth if kind is list else '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    "text",
    ["1", nested(254), nested(255), nested(300), nested(1_000), nested(900, dict), "100000000000000000000", '"\u202e"'],
    ids=["1", "254", "255", "300", "1000", "objects", "long", "reordering"],
)
def test_what_can_be_read_can_be_printed(text, capsys):
    """The parsers read 1,024 levels and integers of any length; orjson writes 254 and 64 bits."""
    value = json.loads(text)
    print_json({"v": value})
    assert json.loads(capsys.readouterr().out) == {"v": value}
    assert json.loads(as_json_text([value], is_indented=True)) == [value]


def test_fields_are_text_or_json():
    """Texts are as they are, other values JSON; control characters are escaped."""
    fields = {"a": "x y", "b": True, "c": None, "d": {"e": [1, 1.5]}, "f\n": "\x1b", "g": orjson.loads(nested(900))}
    short = fields_text({"a": "x y", "b": "x\n=", "c": "", "d": "plain", "e": 1.23456}, is_short=True)
    assert short == r'a="x y"  b="x\n="  c=""  d=plain  e=1.235'
    assert fields_text(fields) == (f'a=x y  b=true  c=null  d={{"e":[1,1.5]}}  f\\n=\\u001b  g={nested(900)}')


@pytest.mark.parametrize(
    "words", [["version", "--json"], ["paths", "--json"], ["log", "--json"], ["doctor", "--list", "--json"]]
)
def test_json_is_one_document(words, capsys):
    """What prints data prints it as JSON, too."""
    assert _run(words) == 0
    assert json.loads(capsys.readouterr().out) is not None


@given(
    st.lists(st.tuples(st.text("ab \u4e2d"), st.sampled_from([{}, {"bold": True}])), max_size=5),
    st.integers(0, 4),
    st.integers(5, 30),
)
@example([("a aa\u4e2d", {})], 1, 5)
def test_wrapped_lines_fit_and_lose_nothing(parts, indent, columns):
    """Only a line of one word may be wider; words, blanks within a line and styles stay."""
    plain = click.unstyle(wrapped(parts, indent, columns))
    lines = plain.split("\n")

    assert plain.split() == "".join(text for text, _ in parts).split()
    assert all(cell_len(line) <= columns or len(line.split()) == 1 for line in lines if len(parts) == 1)
    assert all(line.startswith(" " * indent) and line[indent : indent + 1] != " " for line in lines[1:])
    assert all(line.count("\x1b[1m") == line.count("\x1b[0m") for line in wrapped(parts, indent, columns).split("\n"))
    assert click.unstyle(wrapped(parts, indent, None)) == "".join(text for text, _ in parts)
