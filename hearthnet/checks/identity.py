"""Checks of the keys, the community and its event log: that it is there, ours, sound, and can be written now."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hearthnet.checks.probes.lock_owner import lock_holders, named, user_name
from hearthnet.checks.results import found, keys_dir, skipped, warned
from hearthnet.config import Config
from hearthnet.database import EVENTS, connect_read_only, quick_check, reason_of, store_error
from hearthnet.errors import DiskFullError, HearthNetError, IdentityError, StoreError, UnusableStoreError
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.identity.community import MANIFEST_FILE, community_dir
from hearthnet.identity.keys import KEY_BYTES, PRIVATE_FILE, PUBLIC_FILE, KeyPair, encode, short_id
from hearthnet.identity.manifest import read_manifest
from hearthnet.observability.doctor import CheckResult

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["community_present", "event_log_writable", "judge_event_log", "keys_loadable", "keys_present"]

_NO_KEY: Final = "no device key that can be used: see keys_loadable"
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def keys_present(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The device key file exists, is ours, and has mode 0600 in a folder that nobody else may write."""
    path = keys_dir(config) / PRIVATE_FILE
    target = None
    try:
        if path.is_symlink():
            target = str(path.readlink())
        key, folder = path.stat(), path.parent.stat()
    except FileNotFoundError:
        return _no_key(config, path, target)
    except OSError as error:
        return found(False, f"{path} cannot be looked at: {error.strerror}", f"ls -la {_quoted(path.parent)}")
    mode, owner = stat.S_IMODE(key.st_mode), user_name(key.st_uid)
    facts = {"path": str(path), "mode": f"{mode:04o}", "owner": owner, "links_to": target}
    if not stat.S_ISREG(key.st_mode):
        aside = f"mv {_quoted(path)} {_quoted(path.with_name(f'{path.name}.aside'))}"
        return found(False, f"{path} is no file", aside, **facts)
    wrong = _wrong_modes(path, key, folder)
    if wrong:
        return found(False, "; ".join(wrong), " && ".join(wrong.values()), **facts)
    if target is not None:
        detail = f"{path} is a link: the key is at {path.resolve()}, as open to others as the folders on the way there"
        return warned(detail, f"ls -la {_quoted(path.resolve().parent)}", **facts)
    return found(True, f"{path} has mode {mode:04o}, and belongs to {owner}", **facts)


def _no_key(config: Config, path: Path, target: str | None) -> CheckResult:
    if target is not None:
        return found(False, f"{path} is a link to {target}, which is not there", f"ls -la {_quoted(path.parent)}")
    # A new key is no member of what is here; to have said so after `init` would be too late.
    others = len(list((config.community.state_dir or Path()).glob(f"*/{MANIFEST_FILE}")))
    strange = f"; a backup of it is better: a new one is a stranger to {others} community folder(s) here"
    return found(False, f"no device key at {path}{strange if others else ''}", "hearthnet init", path=str(path))


def _wrong_modes(path: Path, key: os.stat_result, folder: os.stat_result) -> dict[str, str]:
    """Returns what is wrong with the owner or a mode, each with the command that mends it."""
    wrong = {}
    # Root looks at the node of a user as well; then the folder tells whose it is.
    if key.st_uid not in (os.geteuid(), folder.st_uid):
        owner, expected = user_name(key.st_uid), user_name(folder.st_uid)
        wrong[f"{path} belongs to {owner}, its folder to {expected}"] = f"sudo chown {expected} {_quoted(path)}"
    if stat.S_IMODE(key.st_mode) != 0o600:
        mend = f"{_sudo(key)}chmod 600 {_quoted(path)}"
        wrong[f"{path} has mode {stat.S_IMODE(key.st_mode):04o}"] = mend
    if folder.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(folder.st_mode)
        mend = f"{_sudo(folder)}chmod 700 {_quoted(path.parent)}"
        wrong[f"others may write its folder, mode {mode:04o}, and so replace the key"] = mend
    return wrong


def _sudo(about: os.stat_result) -> str:
    return "" if os.geteuid() in (0, about.st_uid) else "sudo "


def keys_loadable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The keys parse as Ed25519, and belong together."""
    directory = keys_dir(config)
    private, public = directory / PRIVATE_FILE, directory / PUBLIC_FILE
    try:
        keys = KeyPair.load(directory)
    except IdentityError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return found(False, "no device key to load: see keys_present", "hearthnet init")
        if isinstance(error.__cause__, OSError):
            return found(False, error.message, f"ls -la {_quoted(directory)}")
        return found(False, f"{error.message}{_other_format(private)}", f"cp BACKUP/{PRIVATE_FILE} {_quoted(private)}")
    facts = {"node_id": keys.node_id, "short_id": short_id(keys.node_id)}
    # The public half can be made anew at any time, from a private one that is known to be this node's.
    mend = _write_public(directory) if _is_member(config, keys) else f"cp BACKUP/device.* {_quoted(directory)}/"
    try:
        raw = public.read_bytes()
    except OSError as error:
        return found(False, f"{PUBLIC_FILE} cannot be read: {error.strerror}", mend, **facts)
    if len(raw) != KEY_BYTES:
        detail = f"{PUBLIC_FILE} holds {len(raw)} bytes, a key has {KEY_BYTES}{_other_format(public)}"
        return found(False, detail, mend, **facts)
    if raw != keys.public_bytes:
        other = short_id(encode(raw))
        detail = f"{PUBLIC_FILE} is not the public half of the device key, {facts['short_id']}, but of {other}"
        return found(False, detail, mend, public_short_id=other, **facts)
    return found(True, f"the key of {facts['short_id']}", **facts)


def _other_format(path: Path) -> str:
    """Tells of a file that holds a key, or anything, as text: HearthNet's are 32 raw bytes."""
    try:
        with path.open("rb") as file:
            return "; it begins as PEM or OpenSSH do" if file.read(5) in (b"-----", b"ssh-e") else ""
    except OSError:  # which was told already
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
    """The community manifest exists, is signed by its root, and has us as a member."""
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
    about = f"{manifest.name!r}, {members} member(s), we are "
    if folder != community_dir(folder.parent, manifest.community_id):
        other = short_id(manifest.community_id)
        return found(False, f"{path} is of another community, {manifest.name!r}, {other}", fetch, **facts)
    if manifest.is_revoked(keys.node_id):
        return found(False, f"{about}revoked; an anchor may invite us again", fetch, **facts)
    if level is None:
        return found(False, f"{about}no member; ask one of its anchors for an invitation, then", fetch, **facts)
    return found(True, f"{about}{level}", **facts)


def event_log_writable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The event log opens, is sound, and can be written; what the check writes it takes back."""
    community_id = config.community.community_id
    if community_id is None:
        keys = _keys(config)
        if keys is None:
            return skipped(_NO_KEY)
        community_id = keys.node_id
    return judge_event_log(_folder(config, community_id) / EVENTS_FILE, community_id)


def _keys(config: Config) -> KeyPair | None:
    """Returns the key pair, or None where there is none: other checks say why."""
    try:
        return KeyPair.load(keys_dir(config))
    except IdentityError:
        return None


def _folder(config: Config, node_id: str) -> Path:
    return community_dir(config.community.state_dir or Path(), config.community.community_id or node_id)


_LOCKED_FOR_S: Final = 1.0  # an append takes milliseconds, on a slow card a few hundred; longer is no append
_CHECK_WITHIN_S: Final = 0.8  # a log of a home has a few thousand events, read in a tenth of that

T = TypeVar("T")


def judge_event_log(path: Path, community_id: str) -> CheckResult:
    """Returns whether the event log at `path` can be relied on; nothing in it is changed."""
    try:
        if not path.is_file():
            return _not_there(path)
        facts: dict[str, Any] = {"path": str(path), "bytes": _bytes(path)}
    except OSError as error:
        return found(False, f"{path} cannot be looked at: {error.strerror}", f"ls -la {_quoted(path.parent)}")
    try:
        identity = _within(_LOCKED_FOR_S, lambda: _identity(path))
        if identity != EVENTS.application_id:
            # Opened as a log, an empty file would become one, and nobody would hear that the events are gone.
            detail = f"{path} is no event log: it is {'empty' if not facts['bytes'] else 'of another program'}"
            return found(False, detail, _restore(path), **facts)
        facts["events"], facts["write_ms"] = _within(_LOCKED_FOR_S, lambda: _written(path, community_id))
        with closing(connect_read_only(path)) as connection:
            facts["integrity"] = quick_check(connection, _CHECK_WITHIN_S) or "unfinished"
    except (HearthNetError, OSError, sqlite3.Error) as error:
        return _unusable(path, error, facts)
    if facts["integrity"] not in ("ok", "unfinished"):
        return found(False, f"{path} is damaged: {facts['integrity']}", _recover(path), **facts)
    detail = f"{facts['events']} event(s), {facts['bytes']} bytes, writable"
    return found(True, f"{detail}, {'sound' if facts['integrity'] == 'ok' else 'not all of it checked'}", **facts)


def _not_there(path: Path) -> CheckResult:
    if path.exists():
        aside = f"mv {_quoted(path)} {_quoted(path.with_name(f'{path.name}.aside'))}"
        return found(False, f"{path} is no file; it is in the event log's place", aside, path=str(path))
    # With a manifest there were events: `init` would find the community made and write none.
    fix = _restore(path) if (path.parent / MANIFEST_FILE).exists() else "hearthnet init"
    return found(False, f"no event log at {path}", fix, path=str(path))


def _within(within_s: float, act: Callable[[], T]) -> T:
    """Returns what `act` does, tried again while the database is locked: another may be in the middle of an append."""
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


def _written(path: Path, community_id: str) -> tuple[int, float]:
    """Returns how many events there are, and the milliseconds of a write that was taken back."""
    with EventLog(path) as events:
        started = monotonic()
        events.check_writable()
        taken_ms = round((monotonic() - started) * 1_000, 3)
        return events.size(community_id), taken_ms


def _unusable(path: Path, error: HearthNetError | OSError | sqlite3.Error, facts: dict[str, Any]) -> CheckResult:
    if _is_locked(error):
        # In WAL mode the locks are on the index; the one that lasts from the time before WAL is on the file.
        holders = lock_holders(path.with_name(f"{path.name}-shm"), path)
        who = named(holders)
        detail = f"{path} is locked by {who or 'another program'} for more than {_LOCKED_FOR_S:g} s"
        fix = f"ps -fp {holders[0].pid}" if holders else f"sudo lsof {_quoted(path)}"
        return found(False, detail, fix, holder=who or None, **facts)
    told = error if isinstance(error, HearthNetError) else store_error(path, error)
    if isinstance(told, DiskFullError):
        return found(False, told.message, f"df -h {_quoted(path.parent)}", **facts)
    if isinstance(told, UnusableStoreError):
        return found(False, told.message, _recover(path), **facts)
    return found(False, told.message, _permit(path), **facts)


def _permit(path: Path) -> str:
    """Returns what lets us write: the file system, or the modes of folder and file."""
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY and sys.platform == "linux":
        return f'sudo mount -o remount,rw "$(findmnt -nT {_quoted(path.parent)} -o TARGET)"'
    sudo = "" if os.geteuid() in (0, path.stat().st_uid) else "sudo "
    return f"{sudo}chmod u+rwX {_quoted(path.parent)} {_quoted(path.parent)}/{path.name}*"


def _restore(path: Path) -> str:
    return f"cp BACKUP/{path.name} {_quoted(path)}"


def _recover(path: Path) -> str:
    """Returns the command that saves what can be read; it needs sqlite3, and changes nothing in place."""
    return f"sqlite3 {_quoted(path)} .recover | sqlite3 {_quoted(path.with_name(f'{path.name}.recovered'))}"


def _bytes(path: Path) -> int:
    beside = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
