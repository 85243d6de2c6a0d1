"""Where a node's program and files are, as the user who will run it sees them."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from hearthnet.config_file import default_path, read_tree, variable_names
from hearthnet.errors import ConfigError, HearthNetError
from hearthnet.files import read_regular
from hearthnet.identity.keys import PRIVATE_FILE
from hearthnet.locations import Locations, locate
from hearthnet.service.units import PRIVILEGED_PORTS, Layout

__all__ = [
    "ENVIRONMENT_FILE",
    "Found",
    "is_read_by_others",
    "missing_variables",
    "of_machine",
    "of_user",
    "own_program",
]

ENVIRONMENT_FILE: Final = "environment"
# Root's: systemd reads it as root, and a link in a user's folder would lead it to any file.
MACHINE_FOLDER: Final = Path("/etc/hearthnet")
_ACCOUNT: Final = "hearthnet"
_XDG: Final = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_TIMEOUT_S: Final = 60.0
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE: Final = re.compile(rf"\$\{{({_VARIABLE.pattern})\}}")
_UNSET: Final = re.compile(r"the environment has no ([A-Za-z_][A-Za-z0-9_]*)")


class Found(NamedTuple):
    """The layout of a node, where its settings are, the folder of its store, and who owns them.

    Attributes:
        layout: of its units.
        settings: the file.
        data_dir: the folder.
        account: the user.
        variables: the names of those that the settings refer to.
    """

    layout: Layout
    settings: Path
    data_dir: Path
    account: pwd.struct_passwd
    variables: Sequence[str]


def own_program() -> tuple[str, ...]:
    """Returns the command that starts this installation, whether it is a virtual environment, pipx's or another."""
    # Not resolved: the interpreter of a virtual environment is a link that leads out of it.
    script = Path(sysconfig.get_path("scripts")) / "hearthnet"
    if os.access(script, os.X_OK):
        return (str(script),)
    return (sys.executable, "-P", "-m", "hearthnet")


def of_user(config: Path | None) -> Found:
    """Returns the layout of the calling user's own node.

    Raises:
        HearthNetError: raised when there is no node, or its port needs the machine's rights.
    """
    where = locate(config)
    _require_node(where.keys_dir, "hearthnet init")
    if where.port < PRIVILEGED_PORTS:
        raise HearthNetError(
            f"a user's service cannot listen on port {where.port}",
            hint=f"hearthnet config set transport.port {where.port + 7_000}, or: sudo hearthnet service install",
        )
    settings = default_path() if config is None else config.absolute()
    variables = [(name, os.environ[name]) for name in _XDG if os.environ.get(name)]
    try:
        account = pwd.getpwuid(os.geteuid())
    except KeyError:
        raise HearthNetError(
            f"user {os.geteuid()} has no account on this machine, and so no service", hint="hearthnet run"
        ) from None
    layout = Layout(
        own_program(), None if config is None else settings, settings.parent / ENVIRONMENT_FILE,
        _outermost(_folders(where)), where.host, where.port, None, Path.home(), variables,
    )  # fmt: skip
    try:
        tree = read_tree(config) or {}
    except ConfigError:
        tree = {}
    return Found(layout, settings, where.data_dir, account, [*variable_names(tree), *_named_in(tree)])


def of_machine(config: Path | None, name: str | None) -> Found:
    """Returns the layout of a node that the machine starts as a user, who must be able to start this program.

    Args:
        config: of `--config`, or None.
        name: of the user; None: who called sudo, or else the account `hearthnet`.

    Raises:
        HearthNetError: raised when there is no such user, no node of theirs, or they cannot start the program.
    """
    account = _account(name)
    program = own_program()
    environment_file = MACHINE_FOLDER / f"{account.pw_name}.env"
    given = () if config is None else ("--config", str(config.absolute()))
    shown = _ask(account, [*program, "config", "show", "--json", *given], environment_file)
    try:
        values = _with_variables({row["key"]: row["value"] for row in shown["settings"]}, environment_file)
        folders = [_absolute(values[key], account) for key in _PATHS]
        host, port, settings = str(values["transport.host"]), int(values["transport.port"]), Path(shown["file"])
    except (KeyError, TypeError, ValueError) as error:
        raise _cannot_start(account, program[0], "it prints no settings") from error
    _require_node(folders[0], f"sudo -u {account.pw_name} -H {program[0]} init")
    layout = Layout(
        program, None if config is None else settings, environment_file, _outermost(folders),
        host, port, account.pw_name, Path(account.pw_dir),
    )  # fmt: skip
    return Found(layout, settings, folders[_PATHS.index("observability.data_dir")], account, _names_in(shown))


def _with_variables(values: dict[str, Any], environment_file: Path) -> dict[str, Any]:
    """Returns settings with the variables of a file in place of `${NAME}`, as which `config show` prints them."""
    given = _variables(environment_file)
    return {
        key: _REFERENCE.sub(lambda found: given[found[1]], value) if isinstance(value, str) else value
        for key, value in values.items()
        if key in _PATHS or key in _ADDRESS
    }


def _absolute(text: str, account: pwd.struct_passwd) -> Path:
    path = Path(account.pw_dir, text[2:]) if text.startswith("~/") else Path(text)
    if not path.is_absolute():
        raise ValueError(text)
    return path


_ADDRESS: Final = ("transport.host", "transport.port")
_PATHS: Final = (
    "identity.keys_dir",
    "community.state_dir",
    "file.blobs_dir",
    "observability.data_dir",
    "observability.log_dir",
)


def _folders(where: Locations) -> list[Path]:
    return [where.keys_dir, where.state_dir, where.blobs_dir, where.data_dir, where.log_dir]


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Returns the folders that are in none of the others, each once."""
    unique = dict.fromkeys(folders)
    return [path for path in unique if not any(other in path.parents for other in unique)]


def _require_node(keys_dir: Path, command: str) -> None:
    if not os.path.lexists(keys_dir / PRIVATE_FILE):
        raise HearthNetError(f"there is no node to run: {keys_dir / PRIVATE_FILE} is missing", hint=command)


def _account(name: str | None) -> pwd.struct_passwd:
    caller = os.environ.get("SUDO_USER", "")
    wanted = name or (caller if caller not in ("", "root") else _ACCOUNT)
    try:
        account = pwd.getpwnam(wanted)
    except KeyError:
        add = f"useradd --system --create-home --home-dir /var/lib/{_ACCOUNT} --shell /usr/sbin/nologin {_ACCOUNT}"
        raise HearthNetError(
            f"there is no user {wanted!r} to run the node as", hint=f"--run-as NAME, or make one: {add}"
        ) from None
    if account.pw_uid == 0:
        raise HearthNetError("a node is not run as root: it needs no rights of root", hint="--run-as NAME")
    return account


def _ask(account: pwd.struct_passwd, command: Sequence[str], environment_file: Path) -> dict[str, Any]:
    """Returns what the program says when that user starts it, with that user's home and the variables of a file."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), **_variables(environment_file)}
    environment |= {"HOME": account.pw_dir, "USER": account.pw_name}
    rights: dict[str, Any] = {}
    if os.geteuid() != account.pw_uid:
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        rights = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    try:
        done = subprocess.run(  # noqa: S603  # this program
            command, env=environment, cwd="/", capture_output=True, timeout=_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL, start_new_session=True, **rights,  # without root's terminal
        )  # fmt: skip
        shown = orjson.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError) as error:
        raise _cannot_start(account, command[0], str(error)) from error
    except ValueError as error:
        raise _cannot_start(account, command[0], "it prints no settings") from error
    if not isinstance(shown, dict):
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        if (unset := _UNSET.search(lines[0])) is not None:
            hint = f"write {unset[1]}=value into {environment_file}, which root alone may read (mode 0600)"
            raise HearthNetError(f"the service would have no {unset[1]}, which the settings refer to", hint=hint)
        raise _cannot_start(account, command[0], lines[0].removeprefix("error: "))
    return shown


def _cannot_start(account: pwd.struct_passwd, program: str, reason: str) -> HearthNetError:
    return HearthNetError(
        f"user {account.pw_name} cannot use {program}: {reason}",
        hint="install it where every user may read it, such as in /usr/local/lib/hearthnet, or --run-as NAME",
    )


def missing_variables(found: Found) -> list[str]:
    """Returns the variables that the settings refer to and that the service would not have."""
    return sorted(set(found.variables) - set(_variables(found.layout.environment_file)))


def is_read_by_others(environment_file: Path) -> bool:
    """Returns whether users other than the file's owner can read it."""
    try:
        return bool(environment_file.stat().st_mode & 0o077)
    except OSError:
        return False


def _variables(path: Path) -> dict[str, str]:
    """Returns the variables of an environment file; none if it cannot be read."""
    try:
        lines = read_regular(path).decode().splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.partition("=") for line in map(str.strip, lines) if "=" in line and line[0] not in "#;")
    return {name.strip(): _unquoted(value.strip()) for name, _, value in pairs}


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value


def _named_in(value: Any) -> Iterator[str]:
    """Yields the variables that settings name, such as `api_key_env = "KEY"`."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from _named_in(item)
        elif isinstance(item, str) and str(key).endswith("_env") and _VARIABLE.fullmatch(item):
            yield item


def _names_in(shown: dict[str, Any]) -> list[str]:
    """Returns the variables that the settings refer to and name, in what `config show` prints."""
    rows = shown["settings"]
    values = {str(row["key"]): row["value"] for row in rows}
    return [str(name) for row in rows for name in row.get("variables", ())] + list(_named_in(values))
