"""Settings of telemetry as a program passes them: checked, with the standard folder where it names none.

The standard folders are those of the user's config.toml, or of this system: the ones that `hearthnet trace`, `log` and
`doctor` read. Each of `data_dir` and `log_dir` is filled in by itself, as in config.toml: a setting that is not made
has its default, whatever else is set. A program that wants a log file and no store calls `logging.install_sinks`.
"""

from __future__ import annotations

import os
from os import PathLike
from typing import TYPE_CHECKING, Final, Protocol

from hearthnet.config_file import absolute
from hearthnet.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from hearthnet.config import Config, ObservabilityConfig

__all__ = ["LoggingConfig", "complete", "unread"]

unread: Final[list[str]] = []  # why the user's file was not read, until telemetry logs it: there is no log before


class LoggingConfig(Protocol):
    """The part of `ObservabilityConfig` that `logging.install_sinks` needs."""

    @property
    def log_level(self) -> str:
        """The lowest level that HearthNet's own loggers pass on."""

    @property
    def keep_debug_of_failures(self) -> bool:
        """Whether the debug records of a trace that fails or is slow are stored, whatever the level."""

    @property
    def log_dir(self) -> Path | None:
        """The folder of the daily files; None: no files."""


def complete(given: ObservabilityConfig | str | PathLike[str] | None = None) -> ObservabilityConfig:
    """Returns checked settings with absolute folders; for None the section of the user's config.toml, or the defaults.

    A folder means the same settings with all files in that folder; see `locations.store_in`. For a user without a home
    folder a standard folder is None.

    Raises:
        ConfigError: raised as `invalid_field`, with the setting's name, for a value that cannot be (a copy by
            `model_copy` is not checked when it is made), and as `config.load` does.
        TypeError: raised for anything but this section.
    """
    from hearthnet.config import ObservabilityConfig  # late: pydantic

    if given is None:
        return _of_user()
    if isinstance(given, str | PathLike):
        return _in_folder(_users().observability, given)
    if not isinstance(given, ObservabilityConfig):
        raise TypeError(
            "telemetry takes a folder, or an ObservabilityConfig such as `config.observability`: "
            f"got a value of type {type(given).__name__}"
        )
    return _with_folders(_checked(given))


def _of_user() -> ObservabilityConfig:
    from hearthnet.config import resolve_paths

    config = _users()
    try:
        return resolve_paths(config).observability
    except ConfigError as error:
        _raise_unless_homeless(error)
    return config.observability.model_copy(update={"data_dir": None, "log_dir": None})


def _users() -> Config:
    """Returns the user's settings; the defaults for a program whose HOME is another user's, as after `su`.

    There is no file of this user then, and the program must not end for it. That is logged, for the file of that other
    user may have rules of redaction.
    """
    from hearthnet.config import load, without_file

    try:
        return load()
    except ConfigError as error:
        if error.code != "unreachable":
            raise
        unread.append(error.message)
        return without_file()


def _raise_unless_homeless(error: ConfigError) -> None:
    """Raises an error again, unless it is that a user without a home folder has no standard folders.

    A container that runs as any uid has such a user. That is no mistake of the program, so it must not end it.
    """
    if error.code not in ("path_resolution", "unreachable"):
        raise error


def _in_folder(config: ObservabilityConfig, folder: str | PathLike[str]) -> ObservabilityConfig:
    from hearthnet.locations import store_in

    if not os.fspath(folder):  # a variable that is not set, mostly: this is not the current folder
        raise ConfigError(
            "invalid_field", field="observability.data_dir", message="the folder of telemetry has no name"
        )
    try:
        data_dir, log_dir = store_in(os.fspath(folder))
    except RuntimeError as error:  # `~` without a home directory
        raise ConfigError("invalid_field", field="observability.data_dir", message=f"{folder}: {error}") from error
    return config.model_copy(update={"data_dir": data_dir, "log_dir": log_dir})


def _checked(given: ObservabilityConfig) -> ObservabilityConfig:
    from pydantic import ValidationError

    from hearthnet.config_sections import invalid_telemetry

    try:
        return type(given).model_validate(dict(given))
    except ValidationError as error:
        raise invalid_telemetry(error) from error


def _with_folders(config: ObservabilityConfig) -> ObservabilityConfig:
    from hearthnet.locations import locate

    folders = {"data_dir": config.data_dir, "log_dir": config.log_dir}
    if None in folders.values():
        try:
            standard = locate()
            folders = {name: given or getattr(standard, name) for name, given in folders.items()}
        except ConfigError as error:
            _raise_unless_homeless(error)
    return config.model_copy(update={name: folder and absolute(folder) for name, folder in folders.items()})
