"""Checks of the keys, the community and its event log."""

from __future__ import annotations

import stat

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks.finding import community_path, found, keys_dir
from hearthnet.config import Config
from hearthnet.errors import HearthNetError, IdentityError, StoreError
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.identity.keys import PRIVATE_FILE, PUBLIC_FILE, KeyPair, short_id
from hearthnet.identity.manifest import read_manifest
from hearthnet.observability.doctor import CheckResult

__all__ = ["community_present", "event_log_writable", "keys_loadable", "keys_present"]


def keys_present(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The device key file exists, with mode 0600."""
    path = keys_dir(config) / PRIVATE_FILE
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return found(False, f"no device key at {path}", "hearthnet init", path=str(path))
    return found(mode == 0o600, f"{path} has mode {mode:04o}", f"chmod 600 {path}", mode=f"{mode:04o}")


def keys_loadable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The keys parse as Ed25519, and belong together."""
    directory = keys_dir(config)
    try:
        keys = KeyPair.load(directory)
        public = (directory / PUBLIC_FILE).read_bytes()
    except IdentityError as error:
        return found(False, error.message, error.hint)
    except OSError as error:
        return found(False, f"{PUBLIC_FILE} cannot be read: {error.strerror}", "restore it from a backup")
    if public != keys.public_bytes:
        return found(False, f"{PUBLIC_FILE} is not the public half of the device key", "restore both from a backup")
    return found(True, f"the key of {short_id(keys.node_id)}", node_id=keys.node_id)


def community_present(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The community manifest exists, is signed by its root, and has us as a member."""
    try:
        keys = KeyPair.load(keys_dir(config))
        manifest = read_manifest(community_path(config, keys))
    except HearthNetError as error:
        return found(False, error.message, error.hint)
    level = manifest.level_of(keys.node_id)
    detail = f"{manifest.name!r}, {len(manifest.members)} member(s), we are {level or 'no member'}"
    return found(level is not None, detail, "ask an anchor of the community for an invitation", level=level)


def event_log_writable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The event log opens and can be written; what the check writes it takes back."""
    try:
        keys = KeyPair.load(keys_dir(config))
        path = community_path(config, keys) / EVENTS_FILE
        if not path.is_file():
            return found(False, f"no event log at {path}", "hearthnet init")
        with EventLog(path) as events:
            events.check_writable()
            size = events.size(config.community.community_id or keys.node_id)
    except (IdentityError, StoreError) as error:
        return found(False, error.message, error.hint)
    return found(True, f"{size} event(s), writable", events=size)
