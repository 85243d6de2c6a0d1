"""The units of the service: texts for systemd 247 and newer, each setting with its reason.

    hearthnet.service          the node
    hearthnet-doctor.service   one run of the doctor, which tells what has changed
    hearthnet-doctor.timer     starts that every quarter of an hour

The first line of each carries the SHA-256 of all that follows: a unit that a person has changed is recognised.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hearthnet.errors import HearthNetError
from hearthnet.forensics.verdict import RESTART_LOOP_US

__all__ = ["DOCTOR", "NODE", "TIMER", "Layout", "is_as_written", "listed", "units_of", "value_of", "words"]

NODE: Final = "hearthnet.service"
DOCTOR: Final = "hearthnet-doctor.service"
TIMER: Final = "hearthnet-doctor.timer"

RUNTIME_FOLDER: Final = "hearthnet-doctor"
PRIVILEGED_PORTS: Final = 1_024
_MARK: Final = re.compile(r"# Written by `hearthnet service install`; sha256 of the rest: ([0-9a-f]{64})\n")
_HOMES: Final = ("/home", "/root", "/run/user")
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108  # compared, not used
_ANY_ADDRESS: Final = ("", "0.0.0.0", "::", "localhost")  # noqa: S104  # compared, not bound
_REFUSED: Final = frozenset("\"'\\")
_UNLESS_WELL: Final = '[ "$SERVICE_RESULT" = success ] || exec "$@"'
_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")  # needs no quotes


@dataclass(frozen=True, slots=True)
class Layout:
    """What the units depend on.

    Attributes:
        program: the command that starts `hearthnet`, with absolute paths.
        config: of `--config`, or None for the standard file.
        environment_file: variables for `${NAME}` in the settings, if it exists.
        folders: those that the node writes to.
        host: the address that it listens on.
        port: of that address.
        user: of a system service; None: a service of the user who installs it.
        home: of that user.
        variables: of the environment that the paths depend on.
    """

    program: Sequence[str]
    config: Path | None
    environment_file: Path
    folders: Sequence[Path]
    host: str
    port: int
    user: str | None
    home: Path
    variables: Sequence[tuple[str, str]] = ()

    @property
    def is_system(self) -> bool:
        """Whether the service belongs to the machine, not to one user."""
        return self.user is not None


def units_of(layout: Layout) -> dict[str, str]:
    """Returns the text of each unit by its name.

    Raises:
        HearthNetError: raised for a path that no unit can hold.
    """
    texts = {NODE: _node(layout), DOCTOR: _doctor(layout), TIMER: _timer()}
    return {name: _marked("\n".join(lines) + "\n") for name, lines in texts.items()}


def is_as_written(text: str) -> bool:
    """Returns whether a unit is as some version of this program wrote it."""
    match = _MARK.match(text)
    return match is not None and match[1] == _digest(text[match.end() :])


def value_of(text: str, name: str) -> str | None:
    """Returns the value of a setting in a unit, or None."""
    match = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
    return None if match is None else match[1]


def listed(text: str, name: str) -> list[str]:
    """Returns the words of a setting that is a list, in a unit that this program wrote."""
    try:
        return [word.replace("%%", "%") for word in shlex.split(value_of(text, name) or "")]
    except ValueError:  # edited by hand: an open quote
        return []


def _marked(text: str) -> str:
    return f"# Written by `hearthnet service install`; sha256 of the rest: {_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def words(*parts: str) -> str:
    """Returns words of a command line, or of a list, as systemd reads them.

    Raises:
        HearthNetError: raised for a word that is no text.
    """
    return " ".join(map(_word, parts))


def _word(text: str) -> str:
    escaped = _checked(text).replace("%", "%%")
    if _PLAIN.fullmatch(escaped):
        return escaped
    for plain, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        escaped = escaped.replace(plain, written)
    return f'"{escaped}"'


def _line(path: Path) -> str:
    """Returns a path for a setting that takes all of its line."""
    text = _checked(str(path))
    if text.strip() != text or not text.isprintable():
        raise HearthNetError(f"no unit can hold the path {text!r}", hint="choose another folder")
    return text.replace("%", "%%")


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise HearthNetError(f"no unit can hold {text!r}: it is not UTF-8", hint="choose another folder") from None
    return text


def _command(layout: Layout, *arguments: str) -> str:
    """Returns the line that starts a command; `:` keeps a `$` in a path from being a variable.

    Raises:
        HearthNetError: raised for a program that systemd does not start.
    """
    if not layout.program[0].isprintable() or set(layout.program[0]) & _REFUSED:
        raise HearthNetError(
            f"systemd starts no program whose path has quotes or backslashes: {layout.program[0]}",
            hint="install it in another folder",
        )
    return f"ExecStart=:{words(*layout.program, *arguments, *_config(layout))}"


def _config(layout: Layout) -> Sequence[str]:
    return () if layout.config is None else ("--config", str(layout.config))


def _node(layout: Layout) -> Iterator[str]:
    yield from (
        "[Unit]",
        "Description=HearthNet node",
        *_order(layout),
        "# After ten starts within the time that the doctor's check restart_loop counts in, systemd starts it no more,",
        "# and the doctor tells.",
        f"StartLimitIntervalSec={RESTART_LOOP_US // 1_000_000}",
        "StartLimitBurst=10",
        f"OnFailure={DOCTOR}",
        "",
        "[Service]",
        "# The node tells when it listens, and twice a minute that its event loop turns. If that stops, systemd ends",
        "# it with SIGABRT, which leaves the stacks of its threads for `hearthnet autopsy`.",
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=60",
        _command(layout, "run"),
        *_environment(layout),
        "Restart=on-failure",
        "RestartSec=15",
        "# Recovery of the records of a killed run, and calls that are running at the end.",
        "TimeoutStartSec=180",
        "TimeoutStopSec=30",
        "# A leak ends the node, and not the machine; `hearthnet autopsy` tells.",
        "MemoryMax=50%",
        "UMask=0077",
        *_hardening(layout),
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if layout.is_system else 'default.target'}",
    )


def _order(layout: Layout) -> Iterator[str]:
    if not layout.is_system:
        return
    if layout.host in _ANY_ADDRESS or layout.host.startswith(("127.", "::1")):
        yield "After=network.target time-sync.target"
    else:
        yield "# It listens on one address, which must be there."
        yield "Wants=network-online.target"
        yield "After=network-online.target time-sync.target"
    yield "# A disk that is not mounted yet must not become a new, empty node."
    yield f"RequiresMountsFor={words(*map(str, layout.folders))}"


def _environment(layout: Layout) -> Iterator[str]:
    if layout.is_system:
        yield f"User={layout.user}"
    for name, value in layout.variables:
        yield f"Environment={words(f'{name}={value}')}"
    yield "# Variables that the settings refer to as ${NAME}, such as keys; of mode 0600."
    yield f"EnvironmentFile=-{_line(layout.environment_file)}"


def _hardening(layout: Layout) -> Iterator[str]:
    """Yields what the node cannot do.

    Not MemoryDenyWriteExecute: libraries may make code while they run. Not ProtectProc and ProcSubset: the doctor reads
    the machine's state in /proc.
    """
    yield from (
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "RestrictNamespaces=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
    )
    if not layout.is_system:
        # What follows needs namespaces, which many systems do not give to users.
        return
    is_low = layout.port < PRIVILEGED_PORTS
    if is_low:
        yield f"# For port {layout.port}."
        yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"
    yield f"CapabilityBoundingSet={'CAP_NET_BIND_SERVICE' if is_low else ''}"
    if not _is_in(layout, _TEMPORARY):
        yield "PrivateTmp=yes"
    yield from (
        "PrivateDevices=yes",
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if _is_in(layout, _HOMES) else 'yes'}",
        f"ReadWritePaths={words(*map(str, layout.folders))}",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
    )


def _is_in(layout: Layout, places: Sequence[str]) -> bool:
    """Returns whether anything that the service uses is in places that would be hidden from it."""
    used: Iterable[Path] = (*map(Path, layout.program[:1]), *layout.folders, layout.environment_file, layout.home)
    given = used if layout.config is None else (*used, layout.config)
    return any(path.is_relative_to(place) for path in given for place in places)


def _doctor(layout: Layout) -> Iterator[str]:
    failed = (*layout.program, "doctor", "--notify", "--failed", *_config(layout))
    yield from (
        "[Unit]",
        "Description=HearthNet doctor: checks the node and tells what has changed",
        "",
        "[Service]",
        "Type=oneshot",
        _command(layout, "doctor", "--quiet", "--notify"),
        "# A doctor that failed itself, or was ended after its time, tells that it could not run.",
        f"ExecStopPost=:{words('/bin/sh', '-c', _UNLESS_WELL, 'sh', *failed)}",
        *_environment(layout),
        "# 1: a check failed, and its message is sent. SIGTERM: the machine goes down. Neither is a failure.",
        "SuccessExitStatus=1 SIGTERM",
        "# For the state of its messages, as long as the data folder cannot be written.",
        f"RuntimeDirectory={RUNTIME_FOLDER}",
        "RuntimeDirectoryMode=0700",
        "RuntimeDirectoryPreserve=yes",
        "TimeoutStartSec=180",
        "Nice=10",
        "UMask=0077",
        "# Fewer restrictions than the node: sendmail and a command of yours may need privileges, and own folders.",
        "# Most others, such as LockPersonality, imply NoNewPrivileges for a user: Postfix could not drop a mail.",
    )
    if layout.is_system:
        yield "ProtectSystem=full"
        yield "ProtectControlGroups=yes"


def _timer() -> Iterator[str]:
    yield from (
        "[Unit]",
        "Description=HearthNet doctor, every quarter of an hour",
        "",
        "[Timer]",
        "OnActiveSec=5min",
        "OnUnitInactiveSec=15min",
        "RandomizedDelaySec=60",
        "",
        "[Install]",
        "WantedBy=timers.target",
    )
