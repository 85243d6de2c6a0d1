"""Checks of the device keys, the community manifest and the event log."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hearthnet.checks.machine import out_of_space
from hearthnet.checks.probes.lock_owner import format_holders, lock_holders, user_name
from hearthnet.checks.results import found, keys_dir, skipped, warned
from hearthnet.config import Config
from hearthnet.database import EVENTS, connect_read_only, quick_check, reason_of, store_error
from hearthnet.display import counted, size
from hearthnet.errors import DiskFullError, HearthNetError, IdentityError, StoreError, UnusableStoreError
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.files import open_file, read_regular
from hearthnet.identity.community import MANIFEST_FILE, community_dir
from hearthnet.identity.keys import KEY_BYTES, PRIVATE_FILE, PUBLIC_FILE, KeyPair, encode, short_id
from hearthnet.identity.manifest import read_manifest
from hearthnet.observability.doctor import CheckResult
from hearthnet.sidecars import has_no_file_left

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["check_event_log", "community_present", "event_log_writable", "keys_loadable", "keys_present"]

_NO_KEY: Final = "no usable device key: see keys_loadable"
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def keys_present(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The device key file exists, belongs to us, and has mode 0600 in a folder that no one else can write."""
    path = keys_dir(config) / PRIVATE_FILE
    target = None
    try:
        if path.is_symlink():
            target = str(path.readlink())
        key, folder = path.stat(), path.parent.stat()
    except FileNotFoundError:
        return _no_key(config, path, target)
    except OSError as error:
        return found(False, f"{path} is not accessible: {error.strerror}", f"ls -la {_quoted(path.parent)}")
    mode, owner = stat.S_IMODE(key.st_mode), user_name(key.st_uid)
    facts = {"path": str(path), "mode": f"{mode:04o}", "owner": owner, "links_to": target}
    if not stat.S_ISREG(key.st_mode):
        aside = f"mv {_quoted(path)} {_quoted(path.with_name(f'{path.name}.aside'))}"
        return found(False, f"{path} is not a file", aside, **facts)
    wrong = _wrong_modes(path, key, folder)
    if wrong:
        return found(False, "; ".join(wrong), " && ".join(wrong.values()), **facts)
    if target is not None:
        detail = f"{path} is a link: the key is at {path.resolve()}, protected only by the folders on that path"
        return warned(detail, f"ls -la {_quoted(path.resolve().parent)}", **facts)
    return found(True, f"{path} has mode {mode:04o} and belongs to {owner}", **facts)


def _no_key(config: Config, path: Path, target: str | None) -> CheckResult:
    if target is not None:
        return found(False, f"{path} is a link to {target}, which does not exist", f"ls -la {_quoted(path.parent)}")
    import_module("cryptography")  # without the extra this is no node: the finding is then that it is missing
    # A new key is not a member of the communities here; after `init` this warning would come too late.
    others = len(list((config.community.state_dir or Path()).glob(f"*/{MANIFEST_FILE}")))
    known = f"; better restore a backup: a new key is not a member of the {counted(others, 'community folder')} here"
    return found(False, f"no device key at {path}{known if others else ''}", "hearthnet init", path=str(path))


def _wrong_modes(path: Path, key: os.stat_result, folder: os.stat_result) -> dict[str, str]:
    """Returns each problem with the owner or a mode, with the command that fixes it."""
    wrong = {}
    # Root may check a user's node; then the folder's owner is the one to compare with.
    if key.st_uid not in (os.geteuid(), folder.st_uid):
        owner, expected = user_name(key.st_uid), user_name(folder.st_uid)
        wrong[f"{path} belongs to {owner}, its folder to {expected}"] = f"sudo chown {expected} {_quoted(path)}"
    if stat.S_IMODE(key.st_mode) != 0o600:
        fix = f"{_sudo(key)}chmod 600 {_quoted(path)}"
        wrong[f"{path} has mode {stat.S_IMODE(key.st_mode):04o}"] = fix
    if folder.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(folder.st_mode)
        fix = f"{_sudo(folder)}chmod 700 {_quoted(path.parent)}"
        wrong[f"other users can write its folder (mode {mode:04o}) and so replace the key"] = fix
    return wrong


def _sudo(status: os.stat_result) -> str:
    return "" if os.geteuid() in (0, status.st_uid) else "sudo "


def keys_loadable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The keys parse as Ed25519 and form a pair."""
    directory = keys_dir(config)
    private, public = directory / PRIVATE_FILE, directory / PUBLIC_FILE
    try:
        keys = KeyPair.load(directory)
    except IdentityError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            import_module("cryptography")  # as above
            return found(False, "no device key to load: see keys_present", "hearthnet init")
        if isinstance(error.__cause__, OSError):
            return found(False, error.message, f"ls -la {_quoted(directory)}")
        return found(False, f"{error.message}{_other_format(private)}", f"cp BACKUP/{PRIVATE_FILE} {_quoted(private)}")
    facts = {"node_id": keys.node_id, "short_id": short_id(keys.node_id)}
    # The public half can be derived again if the private one is known to be this node's.
    fix = _write_public(directory) if _is_member(config, keys) else f"cp BACKUP/device.* {_quoted(directory)}/"
    try:
        raw = read_regular(public)
    except OSError as error:
        return found(False, f"{PUBLIC_FILE} cannot be read: {error.strerror}", fix, **facts)
    if len(raw) != KEY_BYTES:
        detail = f"{PUBLIC_FILE} has {len(raw)} bytes instead of {KEY_BYTES}{_other_format(public)}"
        return found(False, detail, fix, **facts)
    if raw != keys.public_bytes:
        other = short_id(encode(raw))
        detail = f"{PUBLIC_FILE} is the public half of {other}, not of the device key {facts['short_id']}"
        return found(False, detail, fix, public_short_id=other, **facts)
    return found(True, f"key of {facts['short_id']}", **facts)


def _other_format(path: Path) -> str:
    """Returns a remark if the file looks like PEM or OpenSSH; HearthNet's keys are 32 raw bytes."""
    try:
        with open_file(path) as file:
            return "; it looks like PEM or OpenSSH" if file.read(5) in (b"-----", b"ssh-e") else ""
    except OSError:  # reported already
        return ""


def _is_member(config: Config, keys: KeyPair) -> bool:
    try:
        return read_manifest(_folder(config, keys.node_id)).level_of(keys.node_id) is not None
    except IdentityError:
        return False


def _write_public(directory: Path) -> str:
    """Returns the command that derives the public half from the private one."""
    script = (
        "import sys, pathlib; from hearthnet.identity.keys import KeyPair; folder = pathlib.Path(sys.argv[1]); "
        f"(folder / '{PUBLIC_FILE}').write_bytes(KeyPair.load(folder).public_bytes)"
    )
    return shlex.join([sys.executable, "-c", script, str(directory)])


def community_present(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The community manifest exists, is signed by its root, and lists this node as a member."""
    keys = _keys(config)
    if keys is None:
        return skipped(_NO_KEY)
    folder = _folder(config, keys.node_id)
    path = folder / MANIFEST_FILE
    fetch = f"curl -fsS -o {_quoted(path)} http://MEMBER:{config.transport.port}/manifest"
    try:
        manifest = read_manifest(folder)
    except IdentityError as error:
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        if is_missing and config.community.community_id in (None, keys.node_id):
            return found(False, error.message, "hearthnet init", path=str(path))
        return found(False, error.message, fetch, path=str(path))
    level, members = manifest.level_of(keys.node_id), len(manifest.members)
    facts: dict[str, Any] = {"community_id": manifest.community_id, "level": level, "members": members}
    about = f"{manifest.name!r}, {counted(members, 'member')}, this node is "
    if folder != community_dir(folder.parent, manifest.community_id):
        other = short_id(manifest.community_id)
        return found(False, f"{path} belongs to another community, {manifest.name!r}, {other}", fetch, **facts)
    if manifest.is_revoked(keys.node_id):
        return found(False, f"{about}revoked; an anchor can invite it again", fetch, **facts)
    if level is None:
        return found(False, f"{about}not a member; ask an anchor for an invitation, then", fetch, **facts)
    return found(True, f"{about}{level}", **facts)


def event_log_writable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The event log opens, is intact, and can be written; the test write is rolled back."""
    community_id = config.community.community_id
    if community_id is None:
        keys = _keys(config)
        if keys is None:
            return skipped(_NO_KEY)
        community_id = keys.node_id
    return check_event_log(_folder(config, community_id) / EVENTS_FILE, community_id)


def _keys(config: Config) -> KeyPair | None:
    """Returns the key pair, or None if it cannot be loaded; other checks report why."""
    try:
        return KeyPair.load(keys_dir(config))
    except IdentityError:
        return None


def _folder(config: Config, node_id: str) -> Path:
    return community_dir(config.community.state_dir or Path(), config.community.community_id or node_id)


_LOCKED_FOR_S: Final = 1.0  # an append takes milliseconds, a few hundred on a slow card
_CHECK_WITHIN_S: Final = 0.8  # a home's log has a few thousand events, read in a tenth of that

T = TypeVar("T")


def check_event_log(path: Path, community_id: str) -> CheckResult:
    """Checks that the event log at `path` is intact and writable, without changing it."""
    try:
        if not path.is_file():
            return _no_event_log(path)
        facts: dict[str, Any] = {"path": str(path), "bytes": _bytes(path)}
    except OSError as error:
        return found(False, f"{path} is not accessible: {error.strerror}", f"ls -la {_quoted(path.parent)}")
    try:
        identity = _retry_locked(_LOCKED_FOR_S, lambda: _identity(path))
        if identity != EVENTS.application_id:
            # Opening an empty file as a log would make it one and hide that the events are gone.
            detail = (
                f"{path} is not an event log: it {'is empty' if not facts['bytes'] else 'belongs to another program'}"
            )
            return found(False, detail, _restore(path), **facts)
        facts["events"], facts["write_ms"] = _retry_locked(_LOCKED_FOR_S, lambda: _test_write(path, community_id))
        with closing(connect_read_only(path)) as connection:
            facts["integrity"] = quick_check(connection, _CHECK_WITHIN_S) or "unfinished"
    except (HearthNetError, OSError, sqlite3.Error) as error:
        return _unusable(path, error, facts)
    if facts["integrity"] not in ("ok", "unfinished"):
        return found(False, f"{path} is damaged: {facts['integrity']}", _recover(path), **facts)
    detail = f"{counted(facts['events'], 'event')}, {size(facts['bytes'])}, writable"
    return found(True, f"{detail}, {'intact' if facts['integrity'] == 'ok' else 'only partly checked'}", **facts)


def _no_event_log(path: Path) -> CheckResult:
    if path.exists():
        aside = f"mv {_quoted(path)} {_quoted(path.with_name(f'{path.name}.aside'))}"
        return found(False, f"{path} should be the event log, but is not a file", aside, path=str(path))
    # A manifest means that there were events: `init` would find the community and write none.
    fix = _restore(path) if (path.parent / MANIFEST_FILE).exists() else "hearthnet init"
    return found(False, f"no event log at {path}", fix, path=str(path))


def _retry_locked(within_s: float, act: Callable[[], T]) -> T:
    """Returns the result of `act`, retried while the database is locked, which an append does for a moment."""
    ends_at = monotonic() + within_s
    while True:
        try:
            return act()
        except (StoreError, sqlite3.Error) as error:
            if not _is_locked(error) or monotonic() > ends_at:
                raise


def _is_locked(error: BaseException) -> bool:
    return reason_of(error) == "locked" or (error.__cause__ is not None and reason_of(error.__cause__) == "locked")


def _identity(path: Path) -> int:
    with closing(connect_read_only(path)) as connection:
        return int(connection.execute("PRAGMA application_id").fetchone()[0])


def _test_write(path: Path, community_id: str) -> tuple[int, float]:
    """Returns the number of events, and the milliseconds of a write that was rolled back."""
    with EventLog(path) as events:
        started = monotonic()
        events.check_writable()
        taken_ms = round((monotonic() - started) * 1_000, 3)
        return events.size(community_id), taken_ms


def _unusable(path: Path, error: HearthNetError | OSError | sqlite3.Error, facts: dict[str, Any]) -> CheckResult:
    if _is_locked(error):
        # In WAL mode the locks are on the -shm index; in the older modes on the file itself.
        holders = lock_holders(path.with_name(f"{path.name}-shm"), path)
        who = format_holders(holders)
        detail = f"{path} has been locked by {who or 'another program'} for more than {_LOCKED_FOR_S:g} s"
        fix = f"ps -fp {holders[0].pid}" if holders else f"sudo lsof {_quoted(path)}"
        return found(False, detail, fix, holder=who or None, **facts)
    if has_no_file_left():  # which is no fault of the file
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path)) from error
    reported = error if isinstance(error, HearthNetError) else store_error(path, error)
    if isinstance(reported, UnusableStoreError):
        return found(False, reported.message, _recover(path), **facts)
    if short := out_of_space(path.parent):
        return found(False, f"{path} cannot be written: {short[0]}", short[1], **facts)
    if isinstance(reported, DiskFullError):
        return found(False, reported.message, f"df -h {_quoted(path.parent)}", **facts)
    return found(False, reported.message, _permit(path), **facts)


def _permit(path: Path) -> str:
    """Returns the command that makes `path` writable: changes owners, or modes."""
    files = f"{_quoted(path.parent)} {_quoted(path.parent)}/{path.name}*"
    me = os.geteuid()
    if me not in (0, path.stat().st_uid) or me not in (0, path.parent.stat().st_uid):
        return f"sudo chown {user_name(me)} {files}"
    return f"chmod u+rwX {files}"


def _restore(path: Path) -> str:
    return f"cp BACKUP/{path.name} {_quoted(path)}"


def _recover(path: Path) -> str:
    """Returns the command that copies the readable part to a new file; it needs sqlite3."""
    return f"sqlite3 {_quoted(path)} .recover | sqlite3 {_quoted(path.with_name(f'{path.name}.recovered'))}"


def _bytes(path: Path) -> int:
    wal = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
