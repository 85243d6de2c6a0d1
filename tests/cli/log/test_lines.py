"""What `hearthnet log` finds in the daily files, whoever wrote their lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from support.reachable import reachable
from support.terminal import on_terminal

from hearthnet.cli.main import _run
from hearthnet.locations import locate

LINE = '{{"ts":"2026-11-{day:02}T{clock}Z","level":"{level}","logger":"{logger}","msg":"{msg}"{rest}}}\n'


def line(msg, day=29, clock="12:00:00.000", level="info", logger="hearthnet.bus", **fields):
    """Returns a line of the log."""
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items())
    return LINE.format(day=day, clock=clock, level=level, logger=logger, msg=msg, rest=rest)


@pytest.fixture
def write():
    """Writes lines into the file of a day."""
    directory = locate().log_dir
    directory.mkdir(parents=True)

    def written(*lines, day=29):
        (directory / f"2026-11-{day:02}.log").write_text("".join(lines), "utf-8", newline="")

    return written


@pytest.fixture
def found(capsys):
    """Returns the messages that the command prints with these arguments."""

    def messages(*arguments):
        assert _run(["log", "--json", *arguments]) == 0
        return [item["msg"] for item in json.loads(capsys.readouterr().out)]

    return messages


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--since", "2026-11-28"], ["b", "c", "d"]),
        (["--since", "2026-11-28T11:59:59.999Z"], ["b", "c", "d"]),
        (["--since", "2026-11-28T12:00:00.000Z"], ["b", "c", "d"]),
        (["--since", "2026-11-28T12:00:00.001Z"], ["c", "d"]),
        (["--until", "2026-11-28T12:00:00.000Z"], ["a"]),
        (["--until", "2026-11-28 17:30:00.001 +0530"], ["a", "b"]),
        (["--since", "2026-11-28T00:00Z", "--until", "2026-11-29T00:00Z"], ["b"]),
        (["--since", "2026-11-30"], []),
        (["--until", "1970-01-01"], []),
        (["--since", "2026-11-01", "-n", "2"], ["c", "d"]),
    ],
)
def test_times(write, found, arguments, expected):
    """`--since` includes its time, `--until` does not; files of other days are passed over."""
    for day, messages in ((27, "a"), (28, "b"), (29, "cd")):
        write(*(line(msg, day, f"12:00:0{at}.000") for at, msg in enumerate(messages)), day=day)
    assert found(*arguments) == expected


def test_line_without_a_time_is_outside_every_time(write, found):
    """It is shown as long as no time is asked for."""
    write('{"level":"info","logger":"x","msg":"none"}\n', '{"ts":[1],"level":"info","logger":"x","msg":"list"}\n')
    assert found() == ["none", "list"]
    assert found("--since", "1970-01-02") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("disk", ["disk full", "Disk failed"]),
        ("Disk", ["Disk failed"]),
        ("full|peer", ["disk full", "lost"]),
        ("peer=10", ["lost"]),
        ("^hearthnet.bus: lost", ["lost"]),
        ("valueerror", ["raised"]),
        ('"deep":\\[1', ["lost"]),
        ("nothing", []),
    ],
)
def test_grep(write, found, pattern, expected):
    """Logger, message, fields and traceback are searched; capitals are meant."""
    write(
        line("disk full"), line("Disk failed"), line("lost", peer="10.0.0.7", more={"deep": [1]}),
        line("raised", exc="Traceback\nValueError: x"),
    )  # fmt: skip
    assert found("--grep", pattern) == expected


def test_grep_takes_no_nonsense(capsys):
    """A pattern that is none is a usage error."""
    assert _run(["log", "--grep", "("]) == 2
    assert "'(' is not a regular expression" in capsys.readouterr().err


def test_trace_by_the_beginning_of_its_id(write, found):
    """In either case; records outlive their traces, so the id is not looked up."""
    write(line("one", trace_id="01AAAA"), line("two", trace_id="01AABB"), line("none"))
    assert found("--trace", "01aab") == ["two"]
    assert found("--trace", "01AA") == ["one", "two"]
    assert found("--trace", "01AAAAX") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grep", "nope"], "no records match\n"),
        (["--component", "nope"], "no records match\n"),
        (["--trace", "zzz"], "no records match\n"),
        (["--since", "2026-11-01", "-n", "1"], "older records match, too: hearthnet log -n 10 …\n"),
        (["--since", "2026-11-01", "-n", "2"], ""),
        (["-n", "1"], ""),
        (["-n", "0"], ""),
    ],
)
def test_empty_and_cut_lists_say_so(write, capsys, arguments, said):
    """On standard error, with exit code 0; JSON is an array in any case."""
    write(line("a"), line("b"))
    assert _run(["log", *arguments]) == 0
    assert capsys.readouterr().err == said
    assert _run(["log", *arguments, "--json"]) == 0
    shown = capsys.readouterr()
    assert isinstance(json.loads(shown.out), list)
    assert shown.err == said


def test_without_log_files(capsys):
    """The folder is named."""
    assert _run(["log"]) == 0
    assert capsys.readouterr() == ("", f"no log files are in {locate().log_dir} yet\n")


DEEP = "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (DEEP, json.loads(DEEP)),
        ("[" * 1_020 + "]" * 1_020, None),
        ('{"a":' * 700 + "1" + "}" * 700, None),
        ("100000000000000000000", 10**20),
        ("-9223372036854775809", -(2**63) - 1),
        ("18446744073709551616", 2**64),
        ('"\\ud834\\udd1e"', "\U0001d11e"),
        ('"\u202e\x9b\x7f"', "\u202e\x9b\x7f"),
        ("1E5", 1e5),
    ],
    ids=["deep", "deepest", "objects", "long", "negative", "unsigned", "pair", "control", "float"],
)
def test_foreign_lines_are_printed_as_they_are(write, capsys, raw, value):
    """What could be read is printed: as JSON the line itself, as text its values."""
    write(line("before"), f'{{"ts":"2026-11-29T00:00:00.000Z",\t"level":"info","logger":"a","msg":"b","v":{raw}}}\r\n')
    assert _run(["log", "--json"]) == 0
    shown = capsys.readouterr().out
    if value is not None:
        assert json.loads(shown)[1]["v"] == value
    assert not set(shown) & set("\t\r\x7f\x9b\u202e")
    assert shown.count("\n") == 4
    assert _run(["log"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 2
    if isinstance(value, int):
        assert f"v={value}\n" in text


@pytest.mark.parametrize("raw", ['{"msg":"torn', "[1]", "null", "", '{"a":1}x', "\xff", '{"level":"info","v":1e400}'])
def test_what_is_no_record_is_passed_over(write, found, raw):
    """The lines around it are shown."""
    write(line("before"), f"{raw}\n", line("after"))
    assert found() == ["before", "after"]


@pytest.mark.parametrize("key", ["ts", "level", "logger", "msg", "exc", "trace_id"])
def test_values_of_the_wrong_kind(write, capsys, key):
    """A known key with a nested value is shown or filtered like any other."""
    values = {"ts": "2026-11-29T00:00:00Z", "level": "info", "logger": "a", "msg": "b", "exc": "", "trace_id": "01"}
    write(json.dumps({**values, key: [[1]]}) + "\n")
    for arguments in ([], ["--trace", "01"], ["--grep", "b"], ["--since", "2026-11-29"], ["--component", "a"]):
        assert _run(["log", *arguments]) == 0
        assert "Traceback" not in capsys.readouterr().err


def test_numbers_are_short_and_found_either_way(write, capsys):
    """As text they have three decimals, as JSON all; `--grep` takes what is in the file and what is shown."""
    write(line("slow", ms=1.4226789, many=[0.123456, {"a": 12_345.67891}], small=0.000123456), line("other"))
    for pattern in ("ms=1.4226789", "ms=1.423 "):
        assert _run(["log", "--grep", pattern]) == 0
        assert capsys.readouterr().out.endswith('slow  ms=1.423  many=[0.123,{"a":12345.679}]  small=0.000123\n')
    assert _run(["log", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["ms"] == 1.4226789


def test_level_is_apart_from_the_logger(write, capsys):
    """Also the longest one."""
    write(*(line("x", level=level) for level in ("info", "critical")))
    assert _run(["log"]) == 0
    assert [text[30:] for text in capsys.readouterr().out.splitlines()] == [
        "info    hearthnet.bus: x",
        "critical hearthnet.bus: x",
    ]


@pytest.mark.parametrize(("columns", "colour"), [(80, {}), (140, {"NO_COLOR": "1"})])
def test_terminal_breaks_lines_at_words(write, columns, colour):
    """With a hanging indent; a narrow one shows the day above. A word that is too long stays in one piece."""
    path = "/srv/" + "a" * 150
    write(line("a file could not be copied because another program holds it open", path=path, n="1 2 3"))
    code, text, _ = on_terminal("log", columns=columns, TZ="UTC", **colour)
    lines = click.unstyle(text).splitlines()

    assert (code, "\x1b[" in text) == (0, not colour)
    assert all(len(one) <= columns for one in lines if path not in one)
    assert f"    path={path}" in lines
    assert (lines[0] == "2026-11-29, UTC+00:00") == (columns < 125)
    assert all(one.startswith("    ") for one in lines[2:])


def test_closed_folder_is_no_empty_log(write, capsys, as_nobody):
    """After a run with `sudo`, say: what is in the way is named with its owner and the command."""
    write(line("a"))
    reachable(locate().log_dir.parent)
    for above in locate().log_dir.parents:
        if above.is_relative_to(Path.home()):
            os.chown(above, 65_534, -1)
    locate().log_dir.chmod(0o700)
    with as_nobody():
        assert _run(["log"]) == 1
    said = capsys.readouterr()

    assert (said.out, "no log files" in said.err) == ("", False)
    assert said.err.startswith(f"error: {locate().log_dir} cannot be read by this user\nhint: ")
    assert "belongs to root: sudo chown " in said.err
