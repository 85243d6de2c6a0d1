"""Every setting with its value and where that is from: the default, the file, or the environment."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson
from pydantic.fields import FieldInfo

from hearthnet.config import Config, default_path, load, resolve_paths
from hearthnet.config_file import OTLP_ENDPOINT, has_variable, read_tree, variable_names
from hearthnet.config_sections import COMMAND, PROFILES, SECRET
from hearthnet.errors import ConfigError
from hearthnet.observability.records.record import bounded
from hearthnet.observability.redaction.rules import REDACTED, is_secret, scrub

__all__ = ["VARIABLES", "Setting", "Settings", "as_text", "fields", "known", "read"]

# Settings that a variable of the environment overrides, whatever the file says.
_VARIABLE_ALONE: Final = re.compile(r"\$\{\w+\}")
VARIABLES: Final = {"observability.otlp_endpoint": OTLP_ENDPOINT}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting.

    Attributes:
        key: its name with its section.
        value: as JSON, with paths filled in and secrets replaced.
        origin: `default`, `file` or `environment`.
        variables: the names of those that the value is from.
        profile: of `init --profile`, if the file has the value of that.
    """

    key: str
    value: Any
    origin: str
    variables: tuple[str, ...] = ()
    profile: str | None = None

    def source(self) -> str:
        """Returns where the value is from, in words."""
        if self.variables:
            names = ", ".join(self.variables)
            return f"environment, {names}" if self.origin == "environment" else f"file, from {names}"
        return f"file, as in profile {self.profile}" if self.profile else self.origin


class Settings(NamedTuple):
    """All settings, and the file."""

    file: Path
    exists: bool
    all: list[Setting]


def fields() -> dict[str, FieldInfo]:
    """Returns the model's field of each setting by its name."""
    sections = ((name, field.annotation) for name, field in Config.model_fields.items())
    return {
        f"{name}.{key}": field
        for name, model in sections
        if model is not None
        for key, field in model.model_fields.items()
    }


def known(name: str) -> FieldInfo:
    """Returns the field of a setting.

    Raises:
        ConfigError: raised as `invalid_field` for another name; it suggests the nearest.
    """
    all_fields = fields()
    if name in all_fields:
        return all_fields[name]
    last = name.rpartition(".")[2]
    same = [key for key in all_fields if key.rpartition(".")[2] == last]
    alike = same or difflib.get_close_matches(name, all_fields, 3) or _alike_by_last(last, list(all_fields))
    raise ConfigError(
        "invalid_field",
        field=name,
        message=f"there is no setting {name!r}",
        hint=f"did you mean {' or '.join(alike)}?" if alike else "hearthnet config show lists them",
    )


def _alike_by_last(last: str, names: list[str]) -> list[str]:
    near = difflib.get_close_matches(last, [name.rpartition(".")[2] for name in names], 2)
    return [name for name in names if name.rpartition(".")[2] in near]


def read(path: Path | None) -> Settings:
    """Returns the settings in a file, by default the standard one.

    Raises:
        ConfigError: raised as `config.load` does.
    """
    config = resolve_paths(load(path))
    tree = read_tree(path)
    file = config.source or (default_path() if path is None else path)
    values = config.model_dump(mode="json")
    return Settings(file, tree is not None, list(_settings(values, tree or {})))


def _settings(values: dict[str, dict[str, Any]], tree: dict[str, Any]) -> Iterator[Setting]:
    for name, field in fields().items():
        section, _, key = name.partition(".")
        written = tree.get(section, {}).get(key)
        value = _shown(values[section][key], written, field)
        variable = VARIABLES.get(name)
        if variable is not None and os.environ.get(variable, "").strip():
            yield Setting(name, _shown(values[section][key], None, field), "environment", (variable,))
        elif written is None:
            yield Setting(name, value, "default")
        else:
            yield Setting(name, value, "file", tuple(variable_names(written)), _profile(section, key, written))


def _profile(section: str, key: str, written: Any) -> str | None:
    matching = (name for name, sections in PROFILES.items() if sections.get(section, {}).get(key) == written)
    return next(matching, None)


def _shown(value: Any, written: Any, field: FieldInfo | None) -> Any:
    """Returns a value without secrets; one that is from the environment as it is written in the file."""
    if isinstance(value, dict):
        tree = written if isinstance(written, dict) else {}
        return {
            key: REDACTED if is_secret(key) and item and not key.endswith("_env") else _shown(item, tree.get(key), None)
            for key, item in value.items()
        }
    if isinstance(value, list):
        items = written if isinstance(written, list) else []
        if _is_marked(field, COMMAND):  # the option before an argument may say that it is secret
            return bounded(items or value)
        return [_shown(item, items[at] if at < len(items) else None, field) for at, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    is_secret_text = _is_marked(field, SECRET)
    if has_variable(written) and (_VARIABLE_ALONE.fullmatch(written) or not is_secret_text):
        return scrub(written)  # beside a variable there may be a secret
    return _origin_of_url(value) if is_secret_text else scrub(value)


def _is_marked(field: FieldInfo | None, mark: str) -> bool:
    extra = None if field is None else field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(mark))


def _origin_of_url(url: str) -> str:
    """Returns an address without its path and its password: for some services these are the key."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return REDACTED
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}/{REDACTED}" if host else REDACTED


def as_text(value: Any) -> str:
    """Returns a value as one line of TOML, or a dash if there is none."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {as_text(item)}' for key, item in value.items() if item is not None)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_text, value))}]"
    return "-" if value is None else orjson.dumps(value).decode()  # a text, number or boolean is the same in TOML
