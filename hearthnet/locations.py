"""Paths and listening address of a node, read from the settings without importing pydantic.

Building the models of `config` takes longer than everything else `hearthnet log` does, so `locate` reads the few
settings it needs by itself. If one of them is not obviously valid, or a name is unknown, it falls back to `config`:
validation rules and error messages stay in one place. Values of other settings are not checked, so a mistake there does
not keep a command from reading the log.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hearthnet.config_file import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    absolute,
    expand,
    read_tree,
    secrets_of,
    standard_paths,
)
from hearthnet.constants import DATABASE
from hearthnet.errors import ConfigError
from hearthnet.observability.redaction.rules import register_secrets

if TYPE_CHECKING:
    from hearthnet.config import Config

__all__ = [
    "Locations",
    "StoreFolders",
    "bytes_of",
    "disk_use",
    "files_in",
    "locate",
    "locate_files",
    "locations_of",
    "store_in",
]

_LOGS: Final = "logs"


class StoreFolders(NamedTuple):
    """The folders of one program's records: that of telemetry.db with the black boxes, and that of the JSON logs."""

    data_dir: Path
    log_dir: Path


def store_in(folder: str | Path) -> StoreFolders:
    """Returns the layout of a store in one folder: telemetry.db and black boxes in it, the JSON logs in `logs`.

    `telemetry.open("folder")` writes this, and `--data folder` reads it.

    Raises:
        RuntimeError: raised when the folder begins with `~` and there is no home directory.
    """
    directory = absolute(Path(folder))
    return StoreFolders(directory, directory / _LOGS)


def files_in(folder: str | Path) -> StoreFolders:
    """Returns where to read a store from: its folder, or its telemetry.db, as any program or a copy has laid it out.

    Without a folder `logs`, JSON logs beside the store are taken, as `autopsy` finds them.
    """
    directory = absolute(Path(folder))
    found = store_in(directory.parent if directory.name == DATABASE and not directory.is_dir() else directory)
    if found.log_dir.is_dir():
        return found
    from hearthnet.forensics.evidence.log_lines import find_log_dir  # late: the nodes' own folders need no search

    return StoreFolders(found.data_dir, find_log_dir(found.data_dir) or found.log_dir)


class Locations(NamedTuple):
    """A node's absolute paths, its community, and its listening address.

    Attributes:
        has_node: whether a node may be running there; False: these are files, and nothing is asked over the network.
    """

    keys_dir: Path
    state_dir: Path
    blobs_dir: Path
    data_dir: Path
    log_dir: Path
    community_id: str | None
    host: str
    port: int
    tls_cert: Path | None
    has_node: bool = True

    @property
    def option(self) -> str:
        """The option, with a space before it, by which another command reads these files; empty for the node's own."""
        return "" if self.has_node else f" --data {shlex.quote(str(self.data_dir))}"


def locate_files(folder: str | Path) -> Locations:
    """Returns the locations of a store in a folder, whatever the settings are; see `files_in`."""
    store = files_in(folder)
    own = (store.data_dir, store.data_dir, store.data_dir)  # for a user without a home folder
    with suppress(ConfigError):
        own = standard_paths()[:3]
    return Locations(*own, *store, None, DEFAULT_HOST, DEFAULT_PORT, None, has_node=False)


def locate(path: Path | None = None) -> Locations:
    """Returns the locations given by the settings in `path` or in the default file.

    Raises:
        ConfigError: raised as `config.load` and `config.resolve_paths` do.
    """
    tree = expand(read_tree(path) or {})
    with suppress(RuntimeError):  # no home directory: `resolve_paths` below raises the error
        if _is_plain(tree):
            register_secrets(secrets_of(_backends(tree)))
            return _plain_locations(tree)
    from hearthnet.config import load, resolve_paths

    return locations_of(resolve_paths(load(path)))


def locations_of(config: Config) -> Locations:
    """Returns the locations of settings whose paths are resolved."""
    identity, community, observability = config.identity, config.community, config.observability
    assert identity.keys_dir is not None
    assert community.state_dir is not None
    assert config.file.blobs_dir is not None
    assert observability.data_dir is not None
    assert observability.log_dir is not None
    return Locations(
        identity.keys_dir, community.state_dir, config.file.blobs_dir, observability.data_dir, observability.log_dir,
        community.community_id, config.transport.host, config.transport.port, config.transport.tls_cert,
    )  # fmt: skip


def disk_use(where: Locations) -> dict[str, int]:
    """Returns the disk usage of the node's files in bytes, by kind."""
    return {
        "telemetry_bytes": sum(bytes_of(path) for path in where.data_dir.glob(f"{DATABASE.removesuffix('.db')}.*")),
        "log_bytes": bytes_of(where.log_dir),
        "blob_bytes": bytes_of(where.blobs_dir),
        "community_bytes": bytes_of(where.state_dir),
    }


def bytes_of(path: Path) -> int:
    """Returns the size in bytes of a file or of all files below a folder; 0 if missing."""
    total = 0
    with suppress(PermissionError):  # in a folder that we may not enter
        for file in path.rglob("*") if path.is_dir() else (path,):
            with suppress(FileNotFoundError):  # removed since it was listed: a rotated log, a -wal
                total += file.stat().st_size if file.is_file() else 0
    return total


def _plain_locations(tree: Mapping[str, Any]) -> Locations:
    def path(section: str, key: str, default: Path) -> Path:
        return absolute(Path(tree.get(section, {}).get(key) or default))

    standard = standard_paths()
    transport: Mapping[str, Any] = tree.get("transport", {})
    certificate = transport.get("tls_cert")
    return Locations(
        path("identity", "keys_dir", standard.keys_dir),
        path("community", "state_dir", standard.state_dir),
        path("file", "blobs_dir", standard.blobs_dir),
        path("observability", "data_dir", standard.data_dir),
        path("observability", "log_dir", standard.log_dir),
        tree.get("community", {}).get("community_id"),
        transport.get("host", DEFAULT_HOST),
        transport.get("port", DEFAULT_PORT),
        absolute(Path(certificate)) if certificate else None,
    )


def _backends(tree: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yields the URL and key variable of each backend, of models or telemetry, whose settings have the right type."""
    if isinstance(endpoint := tree.get("observability", {}).get("otlp_endpoint"), str):
        yield endpoint, None
    found = tree.get("llm", {}).get("backends")
    for item in found if isinstance(found, list) else ():
        if isinstance(item, dict) and isinstance(url := item.get("url"), str):
            variable = item.get("api_key_env")
            yield url, variable if isinstance(variable, str) else None


def _is_plain(tree: Mapping[str, Any]) -> bool:
    """Returns True if every setting read here is obviously valid; False only means that `config` must decide."""
    for section, values in tree.items():
        if section not in _KEYS or not isinstance(values, dict) or not values.keys() <= _KEYS[section]:
            return False
    texts = [tree.get(section, {}).get(key, "") for section, key in _TEXTS]
    port = tree.get("transport", {}).get("port", DEFAULT_PORT)
    # Unprintable text may contain surrogates, which pydantic refuses.
    return (
        all(isinstance(text, str) and text.isprintable() for text in texts)
        and type(port) is int
        and 1 <= port <= 65_535
    )


_TEXTS: Final = (
    ("identity", "keys_dir"),
    ("community", "state_dir"),
    ("community", "community_id"),
    ("file", "blobs_dir"),
    ("observability", "data_dir"),
    ("observability", "log_dir"),
    ("transport", "host"),
    ("transport", "tls_cert"),
)
# Every setting by section, so that a misspelled one is an error here too; a test compares this with the models.
_KEYS: Final = {
    section: frozenset(names.split())
    for section, names in {
        "identity": "keys_dir auto_generate",
        "community": "community_id state_dir",
        "transport": "host port tls_cert tls_key hosts max_body_bytes max_connections max_connections_per_address",
        "discovery": "mdns_enabled udp_enabled udp_multicast_group udp_port",
        "bus": "prefer_local local_load_threshold",
        "llm": "backends",
        "file": "blobs_dir gc_threshold",
        "emergency": "enabled probe_targets",
        "observability": "log_level log_dir data_dir metrics_enabled metrics_loopback_only otlp_endpoint"
        " flush_interval_s eco max_disk_mb keep_free_mb slow_ms keep_debug_of_failures stall_s redact_keys"
        " redact_patterns",
        "doctor": "webhook webhook_format webhook_token_env command mail notify_level",
    }.items()
}
