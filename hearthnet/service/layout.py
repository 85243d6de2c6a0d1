"""Where a node's program and files are, as the user who will run it sees them."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from hearthnet.config_file import default_path, read_tree, variable_names
from hearthnet.errors import ConfigError, HearthNetError
from hearthnet.identity.keys import PRIVATE_FILE
from hearthnet.locations import Locations, locate
from hearthnet.service.units import PRIVILEGED_PORTS, Layout

__all__ = ["ENVIRONMENT_FILE", "Found", "missing_variables", "of_machine", "of_user", "own_program"]

ENVIRONMENT_FILE: Final = "environment"
_ACCOUNT: Final = "hearthnet"
_XDG: Final = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_TIMEOUT_S: Final = 60.0


class Found(NamedTuple):
    """The layout of a node, where its settings are, the folder of its store, and who owns them."""

    layout: Layout
    settings: Path
    data_dir: Path
    account: pwd.struct_passwd


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
    account = pwd.getpwuid(os.geteuid())
    layout = Layout(
        own_program(), None if config is None else settings, settings.parent / ENVIRONMENT_FILE,
        _outermost(_folders(where)), where.host, where.port, None, Path.home(), variables,
    )  # fmt: skip
    return Found(layout, settings, where.data_dir, account)


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
    given = () if config is None else ("--config", str(config.absolute()))
    shown = _ask(account, [*program, "config", "show", "--json", *given])
    values: dict[str, Any] = {row["key"]: row["value"] for row in shown["settings"]}
    folders = [Path(values[f"{key}"]) for key in _PATHS]
    _require_node(Path(values["identity.keys_dir"]), f"sudo -u {account.pw_name} -H {program[0]} init")
    settings = Path(shown["file"])
    layout = Layout(
        program, None if config is None else settings, settings.parent / ENVIRONMENT_FILE, _outermost(folders),
        values["transport.host"], values["transport.port"], account.pw_name, Path(account.pw_dir),
    )  # fmt: skip
    return Found(layout, settings, Path(values["observability.data_dir"]), account)


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


def _ask(account: pwd.struct_passwd, command: Sequence[str]) -> dict[str, Any]:
    """Returns what the program says when that user starts it, with that user's home and nothing else."""
    environment = {"HOME": account.pw_dir, "PATH": os.environ.get("PATH", os.defpath), "USER": account.pw_name}
    rights: dict[str, Any] = {}
    if os.geteuid() != account.pw_uid:
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        rights = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    try:
        done = subprocess.run(  # noqa: S603  # this program
            command, env=environment, cwd="/", capture_output=True, timeout=_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL, **rights,
        )  # fmt: skip
        shown = orjson.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError) as error:
        raise _cannot_start(account, command[0], str(error)) from error
    except ValueError as error:
        raise _cannot_start(account, command[0], "it prints no settings") from error
    if not isinstance(shown, dict):
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise _cannot_start(account, command[0], lines[0].removeprefix("error: "))
    return shown


def _cannot_start(account: pwd.struct_passwd, program: str, reason: str) -> HearthNetError:
    return HearthNetError(
        f"user {account.pw_name} cannot use {program}: {reason}",
        hint="install it where every user may read it, such as in /usr/local/lib/hearthnet, or --run-as NAME",
    )


def missing_variables(found: Found) -> list[str]:
    """Returns the variables that the settings refer to and that the service would not have."""
    try:
        wanted = variable_names(read_tree(found.settings))
    except ConfigError:
        return []
    try:
        lines = found.layout.environment_file.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    given = {line.partition("=")[0].strip() for line in lines if not line.lstrip().startswith(("#", ";"))}
    return sorted(set(wanted) - given)
