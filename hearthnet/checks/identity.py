"""Checks of the keys, the community and its event log."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.event_file import judge_event_log
from hearthnet.checks.finding import found, keys_dir, skipped, warned
from hearthnet.checks.holder import user_name
from hearthnet.config import Config
from hearthnet.errors import IdentityError
from hearthnet.events.event_log import EVENTS_FILE
from hearthnet.identity.community import MANIFEST_FILE, community_dir
from hearthnet.identity.keys import KEY_BYTES, PRIVATE_FILE, PUBLIC_FILE, KeyPair, encode, short_id
from hearthnet.identity.manifest import read_manifest
from hearthnet.observability.doctor import CheckResult

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["community_present", "event_log_writable", "keys_loadable", "keys_present"]

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


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
