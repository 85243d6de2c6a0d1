"""The service manager: whether a systemd runs here, what it knows of a unit, and the commands for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hearthnet.errors import HearthNetError

__all__ = ["BOOTED", "LINGER", "Manager", "unit_folder"]

BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)
LINGER: Final = Path("/var/lib/systemd/linger")
_SYSTEM_UNITS: Final = Path("/etc/systemd/system")
_TIMEOUT_S: Final = 240.0  # more than a unit's own time to start
_WITHOUT: Final = "see what would be written: hearthnet service install --dry-run; in a container use the Containerfile"


def unit_folder(*, is_system: bool) -> Path:
    """Returns the folder of the units that an administrator, or a user, writes.

    Raises:
        HearthNetError: raised when the user has no home folder.
    """
    if is_system:
        return _SYSTEM_UNITS
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    if configured.startswith("/"):
        return Path(configured, "systemd", "user")
    home = os.path.expanduser("~")  # noqa: PTH111  # without a home folder it returns what it got
    if not home.startswith("/"):
        raise HearthNetError("this user has no home folder", hint="set HOME to an absolute path")
    return Path(home, ".config", "systemd", "user")


class Manager:
    """The systemd of this machine, or that of this user."""

    def __init__(self, *, is_system: bool) -> None:
        self._is_system = is_system
        self._command = ["systemctl", "--no-pager", *([] if is_system else ["--user"])]

    def require(self) -> None:
        """Checks that the manager can be used.

        Raises:
            HearthNetError: raised when there is none.
        """
        if shutil.which("systemctl") is None:
            raise HearthNetError("there is no systemd on this machine: systemctl is missing", hint=_WITHOUT)
        if not BOOTED.is_dir():
            raise HearthNetError("this machine was not started by systemd", hint=_WITHOUT)
        if not self._is_system and self._done(["show-environment"]).returncode:
            raise HearthNetError(
                "this user has no service manager here, as after su or sudo",
                hint="log in as this user, or install for the machine: sudo hearthnet service install",
            )

    def is_there(self) -> bool:
        """Returns whether the manager can be used."""
        try:
            self.require()
        except HearthNetError:
            return False
        return True

    def run(self, *arguments: str) -> None:
        """Runs a command of systemctl.

        Raises:
            HearthNetError: raised with its message when it fails.
        """
        done = self._done(arguments)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise HearthNetError(f"systemctl {arguments[0]} failed: {lines[0]}", hint=self.hint())

    def hint(self) -> str:
        """Returns the command that shows why the service does not start."""
        return f"journalctl {'' if self._is_system else '--user '}-u hearthnet -n 30"

    def show(self, unit: str, names: Sequence[str]) -> dict[str, str]:
        """Returns properties of a unit; those that are not known are missing."""
        done = self._done(["show", unit, f"--property={','.join(names)}"])
        pairs = (line.partition("=") for line in done.stdout.splitlines())
        return {name: value for name, _, value in pairs if value}

    def _done(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        command = [*self._command, *arguments]
        try:
            return subprocess.run(  # noqa: S603  # our own arguments
                command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise HearthNetError(f"systemctl {arguments[0]} did not end within {_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise HearthNetError(f"systemctl cannot be started: {error.strerror}", hint=_WITHOUT) from error
