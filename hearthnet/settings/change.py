"""Changes of config.toml: checked by the models first, written whole and private, one writer at a time."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hearthnet.config import as_toml, default_config, line_of, problems_of, table_of, toml_value
from hearthnet.config_file import default_path, read_tree
from hearthnet.errors import ConfigError
from hearthnet.files import locked_folder, make_private_dir, read_in, replace_in
from hearthnet.settings.edit import with_setting, without_setting
from hearthnet.settings.origins import known

__all__ = ["Changed", "change", "check"]

_LOCK_S = 5.0
_MAX_BYTES = 16 << 20  # far more than settings have


class Changed(NamedTuple):
    """What has changed, and what was wrong with the file before and is still."""

    file: Path
    before: Any
    after: Any
    remaining: list[ConfigError]


def check(path: Path | None) -> tuple[Path, list[ConfigError]]:
    """Returns the file and an error for each invalid setting in it; a missing standard file has none.

    Raises:
        ConfigError: raised as `invalid_toml` if the file cannot be read.
    """
    source = default_path() if path is None else path
    return source, problems_of(read_tree(path) or {}, source)


def change(path: Path | None, name: str, text: str | None) -> Changed:
    """Sets a setting, or removes it so that the default applies, and writes the file.

    Args:
        path: of the file; None: the standard one, which is made if it is missing.
        name: of the setting, with its section.
        text: the value as TOML, or a text without quotes; None: the default.

    Raises:
        ConfigError: raised, with nothing written, for an unknown setting, a value that its model refuses, or a file
            that cannot be changed so.
        OSError: raised when the file cannot be written; the old one is then untouched.
    """
    field = known(name)
    readings = [] if text is None else [toml_value(value) for value in _readings(text)]
    source = (default_path() if path is None else path).resolve()  # a link to the file stays one
    make_private_dir(source.parent)
    with locked_folder(source.parent, _LOCK_S) as folder:
        old = _text(source, folder, may_make=path is None)
        tree = tomllib.loads(old)
        section, _, key = name.partition(".")
        before = tree.get(section, {}).get(key)
        if text is None:
            shown = f"#{key} removed" if table_of(field) is not None else line_of(key, field, None)
            new = without_setting(old, name, shown, source)
            remaining = problems_of(tomllib.loads(new), source)
        else:
            new, remaining = _first_valid(old, name, readings, source)
        replace_in(folder, source.name, new.encode(), _owner(folder, source.name))
    return Changed(source, before, tomllib.loads(new).get(section, {}).get(key), remaining)


def _owner(folder: int, name: str) -> tuple[int, int]:
    """Returns whose the file is, or else the folder: the node's user could not read one of root's."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        status = os.fstat(folder)
    return status.st_uid, status.st_gid


def _text(source: Path, folder: int, *, may_make: bool) -> str:
    """Returns the text of the file, after it was read as TOML; of a new one if there is none.

    A link that was put in its place since is not followed: root would give its content to the user.
    """
    if may_make and not source.exists():
        return as_toml(default_config())
    read_tree(source)  # raises with a message about the file
    return read_in(folder, source.name, _MAX_BYTES).decode()


def _first_valid(old: str, name: str, readings: list[str], source: Path) -> tuple[str, list[ConfigError]]:
    """Returns the text with the first of the readings of a value that its model takes.

    Problems elsewhere in the file were there before, and remain: a file with two can be mended one by one.
    """
    before = {error.message for error in problems_of(tomllib.loads(old), source)}
    refused: ConfigError | None = None
    for value in readings:
        new = with_setting(old, name, value, source)
        remaining = problems_of(tomllib.loads(new), source)
        is_own = (error for error in remaining if _is_about(error, name) or error.message not in before)
        if (error := next(is_own, None)) is None:
            return new, remaining
        refused = refused or error
    assert refused is not None
    raise refused


def _is_about(error: ConfigError, name: str) -> bool:
    return error.field is not None and (error.field == name or error.field.startswith(f"{name}."))


def _readings(text: str) -> Iterator[Any]:
    """Yields the values that a text may mean: as TOML, and as it is."""
    with suppress(tomllib.TOMLDecodeError):
        yield tomllib.loads(f"x = {text}")["x"]
    yield text
