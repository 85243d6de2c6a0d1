"""Reader for config.toml without pydantic: finds the file, parses it, replaces `${NAME}`.

`config` builds the settings from it. `locations` reads paths and port from it without importing pydantic.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from hearthnet.errors import ConfigError
from hearthnet.files import hint_for, read_regular
from hearthnet.observability.redaction.rules import is_secret, register_secrets

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DEFAULT_UDP_PORT",
    "OTLP_ENDPOINT",
    "RETIRED_TRANSPORT",
    "StandardPaths",
    "absolute",
    "default_path",
    "expand",
    "has_variable",
    "key_of",
    "read_tree",
    "secrets_of",
    "section_of",
    "standard_paths",
    "variable_names",
]

APP: Final = "hearthnet"
DEFAULT_HOST: Final = "0.0.0.0"  # noqa: S104  # the bus serves the LAN; local-only routes check the client address
DEFAULT_PORT: Final = 7080
DEFAULT_UDP_PORT: Final = 42_424
OTLP_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"  # a variable of OpenTelemetry: [observability] otlp_endpoint
RETIRED_TRANSPORT: Final = ("max_connections_per_address",)  # settings of earlier versions, ignored
# XDG variable, its default below the home directory, and the folder below the program's own.
_XDG: Final = {
    "config": ("XDG_CONFIG_HOME", ".config", ""),
    "data": ("XDG_DATA_HOME", ".local/share", ""),
    "log": ("XDG_STATE_HOME", ".local/state", "log"),
}
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class StandardPaths(NamedTuple):
    """The default paths of a node's files on this system."""

    keys_dir: Path
    state_dir: Path
    blobs_dir: Path
    data_dir: Path
    log_dir: Path


def default_path() -> Path:
    """Returns the default path of config.toml."""
    return _user_dir("config") / "config.toml"


def standard_paths() -> StandardPaths:
    """Returns this user's default folders without creating them."""
    data = _user_dir("data")
    return StandardPaths(data / "keys", data / "communities", data / "blobs", data, _user_dir("log"))


def _user_dir(kind: str) -> Path:
    """Returns the same path as platformdirs, which is imported only when needed: it doubles the time this takes.

    Raises:
        ConfigError: raised as `path_resolution` when there is no home folder, or HOME is not absolute.
    """
    variable, below_home, below_app = _XDG[kind]
    base, home = os.environ.get(variable, ""), os.environ.get("HOME", "")
    if not base.startswith("/"):  # the standard has relative ones ignored, and platformdirs takes them before 4.12
        base = str(Path(home, below_home)) if home.startswith("/") else ""
    if sys.platform == "linux" and base and home and "ANDROID_DATA" not in os.environ:
        return Path(base, APP, below_app)
    import platformdirs

    with suppress(RuntimeError):
        path = Path(getattr(platformdirs, f"user_{kind}_dir")(APP))
        if path.is_absolute():
            return path
    raise ConfigError("path_resolution", message="this user has no home folder", hint="set HOME to an absolute path")


def absolute(path: Path) -> Path:
    """Returns an absolute path with `~` expanded.

    Raises:
        RuntimeError: raised when the home directory does not exist.
    """
    return path.expanduser().absolute()


def read_tree(path: Path | None) -> dict[str, Any] | None:
    """Returns the parsed tables in `path`; None if no path is given and the default file is missing.

    A user without a home folder, as in a container, has no default file; nor has one whose HOME is no folder, such as
    /dev/null.

    Raises:
        ConfigError: raised as `invalid_toml` if the file is not valid TOML or cannot be read, as `unreachable` if no
            path is given and the standard folder may not be entered, as with the HOME of another user.
    """
    source = path
    with suppress(ConfigError):
        source = source or default_path()
    if source is None:
        return None
    try:
        # A path that was given may be a pipe: --config <(sops -d settings.toml)
        text = (read_regular(source) if path is None else source.read_bytes()).decode("utf-8")
    except FileNotFoundError as error:
        if path is None:
            return None
        raise ConfigError(
            "invalid_toml", message=f"{source} does not exist", hint="make one with: hearthnet init"
        ) from error
    except OSError as error:
        if path is None and error.errno in (errno.ENOTDIR, errno.ELOOP):
            return None
        message = f"{source} cannot be read: {error.strerror}"
        code = "unreachable" if path is None and not _is_seen(source) else "invalid_toml"
        raise ConfigError(code, message=message, hint=hint_for(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("invalid_toml", message=f"{source} cannot be read: {error}") from error
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            "invalid_toml",
            message=f"{source} is not valid TOML: {error}",
            hint="fix that line",
        ) from error


def _is_seen(path: Path) -> bool:
    """Returns whether there is a file that can be seen, whether or not it can be read."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def expand(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns the tables with `${NAME}` replaced in strings, and registers the values for redaction.

    Raises:
        ConfigError: raised as `invalid_field` for a variable that is not set.
    """
    # First: an error in the settings may quote them. A value kept out of the file is taken for a secret.
    register_secrets([os.environ.get(name, "") for name in variable_names(tree)])
    expanded: dict[str, Any] = _expand(tree, "")
    return expanded


def _expand(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, name) for item in value]
    return _VARIABLE.sub(lambda match: _variable(match[1], name), value) if isinstance(value, str) else value


def _variable(variable: str, name: str) -> str:
    if variable not in os.environ:
        raise ConfigError(
            "invalid_field",
            field=name,
            message=f"[{section_of(name)}] {key_of(name)}: the environment has no {variable}",
            hint=f"set it: export {variable}=…",
        )
    return os.environ[variable]


def has_variable(value: Any) -> bool:
    """Returns whether a value refers to an environment variable."""
    return isinstance(value, str) and _VARIABLE.search(value) is not None


def variable_names(value: Any) -> list[str]:
    """Returns the environment variables that texts in a tree refer to as `${NAME}`."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [name for item in items for name in variable_names(item)]
    return _VARIABLE.findall(value) if isinstance(value, str) else []


def section_of(name: str) -> str:
    """Returns the section of a dotted setting name."""
    return name.rpartition(".")[0] or name


def key_of(name: str) -> str:
    """Returns the key of a dotted setting name."""
    return name.rpartition(".")[2]


def secrets_of(places: Iterable[tuple[str, str | None]]) -> list[str]:
    """Returns this process's secrets: environment variables with a secret's name, keys, passwords in URLs.

    Args:
        places: for each backend, of models or of telemetry, its URL and the variable that holds its key.
    """
    given = [value for name, value in os.environ.items() if is_secret(name)]
    for url, variable in (*places, (os.environ.get(OTLP_ENDPOINT, ""), None)):
        given += filter(None, (os.environ.get(variable) if variable else None, _password(url)))
    return given


def _password(url: str) -> str | None:
    try:
        password = urlsplit(url).password
    except ValueError:  # an unclosed IPv6 bracket
        return None
    return None if password is None else unquote(password)
