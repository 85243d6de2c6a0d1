"""Changes of one setting in the text of config.toml: comments, order and spelling of everything else stay.

A setting that is commented out, as `init` writes those with their default, is set where it is. What a change does is
checked with the standard library's reader: the new text must differ from the old one in that value alone. tomlkit keeps
comments as well, but appends a setting at the end of its section, away from the comment that explains it.
"""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

from hearthnet.errors import ConfigError

__all__ = ["with_setting", "without_setting"]

_HEADER: Final = re.compile(r"\s*\[")


class _Place(NamedTuple):
    """Lines of a section: those after its header, and those of a setting."""

    first: int
    end: int
    active: tuple[int, int] | None
    commented: int | None


def with_setting(text: str, name: str, value: str, source: Path) -> str:
    """Returns the text with a setting.

    Args:
        text: of the file, valid TOML.
        name: of the setting with its section, `transport.port`.
        value: as TOML.
        source: the file, for the error.

    Raises:
        ConfigError: raised as `invalid_toml` for a file that is written in a way that cannot be changed so.
    """
    section, _, key = name.rpartition(".")
    expected = copy.deepcopy(tomllib.loads(text))
    expected.setdefault(section, {})[key] = tomllib.loads(f"x = {value}")["x"]
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    place = _place(lines, section, key)
    line = f"{key} = {value}"
    if place is None:
        lines += [*(["\n"] if lines else []), f"[{section}]\n", f"{line}\n"]
    elif place.active is not None:
        first, end = place.active
        lines[first:end] = [f"{line}{_remark(''.join(lines[first:end]))}\n"]
    elif place.commented is not None:
        lines[place.commented] = f"{line}\n"
    else:
        lines.insert(_after_last(lines, place), f"{line}\n")
    return _checked("".join(lines), expected, name, source)


def without_setting(text: str, name: str, shown: str, source: Path) -> str:
    """Returns the text without a setting; in its place is `shown`, a comment. Unchanged if it is not set.

    Raises:
        ConfigError: raised as by `with_setting`.
    """
    section, _, key = name.rpartition(".")
    expected = copy.deepcopy(tomllib.loads(text))
    if key not in expected.get(section, {}):
        return text
    del expected[section][key]
    lines = text.splitlines(keepends=True)
    place = _place(lines, section, key)
    if place is not None and place.active is not None:
        first, end = place.active
        lines[first:end] = [f"{shown}{_remark(''.join(lines[first:end]))}\n"]
    return _checked("".join(lines), expected, name, source)


def _checked(text: str, expected: dict[str, Any], name: str, source: Path) -> str:
    try:
        is_right = tomllib.loads(text) == expected
    except tomllib.TOMLDecodeError:
        is_right = False
    if is_right:
        return text
    raise ConfigError(
        "invalid_toml",
        message=f"{source}: {name} is written in a way that cannot be changed automatically",
        hint=f"edit the file: ${{EDITOR:-vi}} {source}",
    )


def _place(lines: list[str], section: str, key: str) -> _Place | None:
    header = re.compile(rf"\s*\[\s*{re.escape(section)}\s*\]\s*(#.*)?")
    at = 0
    while at < len(lines):
        if header.fullmatch(lines[at].rstrip("\r\n")):
            return _within(lines, at + 1, key)
        at = _end_of(lines, at)
    return None


def _within(lines: list[str], first: int, key: str) -> _Place:
    setting, commented = re.compile(rf"\s*{key}\s*="), re.compile(rf"\s*#\s?{key}\s*=")
    active: tuple[int, int] | None = None
    remark: int | None = None
    at = first
    while at < len(lines) and not _HEADER.match(lines[at]):
        end = _end_of(lines, at)
        if setting.match(lines[at]):
            active = (at, end)
        elif remark is None and commented.match(lines[at]):
            remark = at
        at = end
    return _Place(first, at, active, remark)


def _end_of(lines: list[str], at: int) -> int:
    """Returns the line after the statement in line `at`, whose value may take several lines."""
    if "=" not in lines[at] or lines[at].lstrip().startswith("#"):
        return at + 1
    for end in range(at + 1, len(lines) + 1):
        if _is_whole("".join(lines[at:end])):
            return end
    return at + 1


def _is_whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _remark(statement: str) -> str:
    """Returns the comment behind a value, with the blanks before it; empty if there is none."""
    last = statement.rstrip("\r\n")
    for match in re.finditer("#", last):
        before = last[: match.start()]
        if _is_whole(before) and "\n" not in last[match.start() :]:
            return before[len(before.rstrip()) :] + last[match.start() :]
    return ""


def _after_last(lines: list[str], place: _Place) -> int:
    """Returns where a section's text ends: blank lines and comments before the next header belong to that."""
    at = place.end
    while at > place.first and (not lines[at - 1].strip() or (place.end < len(lines) and lines[at - 1][0] == "#")):
        at -= 1
    return at
