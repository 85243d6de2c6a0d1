"""One setting is changed in the text of config.toml, and nothing else."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.config import as_toml, default_config, toml_value
from hearthnet.errors import ConfigError
from hearthnet.settings.edit import with_setting, without_setting
from hearthnet.settings.origins import fields

SOURCE = Path("config.toml")


def changed_lines(before: str, after: str) -> list[str]:
    """The lines that were removed or added."""
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("[transport]\nport = 7080\n", "[transport]\nport = 1\n"),
        ("[transport]\n#port = 7080\n", "[transport]\nport = 1\n"),
        ("[transport]\n# port = 7080\n", "[transport]\nport = 1\n"),
        ("[transport]\nport = 7080  # mine\n", "[transport]\nport = 1  # mine\n"),
        ("[transport]\nport=7080# mine", "[transport]\nport = 1# mine\n"),
        ("[transport]\nport = 7080\n#port = 9\n", "[transport]\nport = 1\n#port = 9\n"),
        ("", "[transport]\nport = 1\n"),
        ("[bus]\nprefer_local = true", "[bus]\nprefer_local = true\n\n[transport]\nport = 1\n"),
        ("[transport]  # the server\n\n[bus]\n", "[transport]  # the server\nport = 1\n\n[bus]\n"),
        ("[ transport ]\nhost = \"x\"\n\n# of the bus\n[bus]\n",
         "[ transport ]\nhost = \"x\"\nport = 1\n\n# of the bus\n[bus]\n"),
        ("[transport]\nhosts = [\n  \"a\", # [x]\n]\nport = 2\n",
         "[transport]\nhosts = [\n  \"a\", # [x]\n]\nport = 1\n"),
        ("[bus]\nx = '''\n[transport]\nport = 3\n'''\n[transport]\nport = 2\n",
         "[bus]\nx = '''\n[transport]\nport = 3\n'''\n[transport]\nport = 1\n"),
        ("# [transport]\n#port = 5\n[transport]\n", "# [transport]\n#port = 5\n[transport]\nport = 1\n"),
    ],
)  # fmt: skip
def test_setting_is_set_where_it_is(before, expected):
    """Comments, order, and values of several lines stay."""
    assert with_setting(before, "transport.port", "1", SOURCE) == expected


@pytest.mark.parametrize(
    "text",
    [
        "transport.port = 7080\n",
        "transport = { port = 7080 }\n",
        "[transport]\n\"port\" = 7080\n",
        "['transport']\nport = 7080\n",
    ],
)  # fmt: skip
def test_other_spelling_is_refused_and_not_damaged(text):
    """It is valid TOML, and a person's to change."""
    with pytest.raises(ConfigError, match="cannot be changed automatically"):
        with_setting(text, "transport.port", "1", SOURCE)


def test_value_of_several_lines_is_replaced_whole():
    """With the comments that are in it."""
    text = '[transport]\nhosts = [ # names\n  "a",\n  "b", # old\n]\nport = 1\n'

    assert with_setting(text, "transport.hosts", '["c"]', SOURCE) == '[transport]\nhosts = ["c"]\nport = 1\n'


def test_hash_in_a_text_is_no_comment():
    """It is found by what parses."""
    text = '[transport]\nhost = "a#b"  # why # so\n'

    assert with_setting(text, "transport.host", '"c"', SOURCE) == '[transport]\nhost = "c"  # why # so\n'


@pytest.mark.parametrize("name", [name for name, field in fields().items() if name != "llm.backends"])
def test_every_setting_of_the_written_file_changes_one_line(name):
    """The one below the comment that explains it; without it, the file is as `init` wrote it."""
    before = as_toml(default_config())
    field = fields()[name]
    value = toml_value(field.default if field.default not in (None, ()) else "x")
    after = with_setting(before, name, value, SOURCE)

    assert len(changed_lines(before, after)) <= 3
    section, _, key = name.partition(".")
    assert tomllib.loads(after)[section][key] == tomllib.loads(f"x = {value}")["x"]
    shown = next(line for line in before.splitlines() if line.startswith(f"#{key} =") and f"[{section}]" in before)
    assert key not in tomllib.loads(without_setting(after, name, shown, SOURCE)).get(section, {})


def test_setting_that_is_not_set_is_no_change():
    """To remove it again is none."""
    assert without_setting("[bus]\n", "transport.port", "#port = 7080", SOURCE) == "[bus]\n"


_KEYS = st.sampled_from(["port", "host", "hosts", "odd"])
_VALUES = st.sampled_from(
    ["1", '"a#[x]"', "[1, 2]", "[\n 1,\n # two\n 2\n]", "'''\n[transport]\nport = 9\n'''", "{ a = 1 }"]
)
_LINES = st.one_of(
    st.just(""), st.sampled_from(["# a comment", "#port = 3", "  # [transport]"]),
    st.tuples(_KEYS, _VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
)  # fmt: skip
_SECTIONS = st.lists(
    st.tuples(st.sampled_from(["[transport]", "[bus]", "[[llm.backends]]"]), st.lists(_LINES, max_size=5)), max_size=4
)


@given(_SECTIONS, _VALUES)
def test_result_has_the_new_value_and_all_others(sections, value):
    """Whatever the file is like: it is changed in that value alone, or refused."""
    text = "".join(f"{header}\n" + "".join(f"{line}\n" for line in lines) for header, lines in sections)
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    try:
        after = with_setting(text, "transport.port", value, SOURCE)
    except ConfigError:
        return
    before.setdefault("transport", {})["port"] = tomllib.loads(f"x = {value}")["x"]
    assert tomllib.loads(after) == before
