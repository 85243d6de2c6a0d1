"""Options that several commands share, as each of those commands takes them."""

from __future__ import annotations

import click
import pytest

from hearthnet.cli.main import COMMANDS, _run, cli


def commands():
    """Returns every command with its full name, as a list of words."""
    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        below = getattr(command, "commands", {})
        found += [([name, child], own) for child, own in below.items()] + [([name], command)]
    return found


def taking(*names):
    """Returns the commands that have one of the options, each with that option."""
    return [
        pytest.param([*words, option], id=" ".join([*words, option]))
        for words, command in commands()
        for parameter in command.params
        for option in parameter.opts
        if option in names
    ]


TIMES = taking("--since", "--until", "--older-than")


def test_every_time_is_found():
    """The commands that take a time are those that people look in."""
    assert sorted(" ".join(item.values[0]) for item in TIMES) == [
        "autopsy --since", "autopsy --until", "log --since", "log --until", "search --since", "search --until",
        "telemetry export --since", "telemetry export --until", "telemetry purge --older-than", "trace recent --since",
        "trace recent --until",
    ]  # fmt: skip


@pytest.mark.parametrize("words", TIMES)
@pytest.mark.parametrize("text", ["tomorrow", "", "16", "1x"])
def test_wrong_time_is_the_same_usage_error_everywhere(words, text, capsys):
    """It names the option and lists the forms."""
    assert _run([*words, text]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Invalid value for '{words[-1]}': {text!r} is not a time: use 90m (ago), 2d, 16:30, yesterday" in said.err


@pytest.mark.parametrize("words", TIMES)
def test_help_says_which_times(words, capsys):
    """Each command's help has the forms, and that they are local."""
    assert _run([*words[:-1], "--help"]) == 0
    assert "TIME is 90m (ago), 2d, 16:30, yesterday" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["trace", "recent"], ["log"]])
def test_nothing_ends_what_is_followed(words, capsys):
    """`--until` with `--follow` is refused."""
    assert _run([*words, "--follow", "--until", "1h"]) == 2
    assert "--until cannot be combined with --follow" in capsys.readouterr().err
