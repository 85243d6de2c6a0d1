"""Where a node's files lie and where it answers: what most commands need of the settings, without importing pydantic.

Importing pydantic and building the models of `config` takes longer than all else that `hearthnet log` does. `locate`
therefore reads plain settings by itself. For whatever is not obviously valid it asks `config`, so that the rules for
values and the words of errors stay in one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hearthnet.config_file import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_UDP_PORT,
    RETIRED_TRANSPORT,
    absolute,
    expand,
    read_tree,
    secrets_of,
    standard_paths,
)
from hearthnet.constants import DATABASE, LEVELS
from hearthnet.observability.redaction import register_secrets

if TYPE_CHECKING:
    from hearthnet.config import Config

__all__ = ["Locations", "bytes_of", "disk_use", "locate", "locations_of"]

Accepts = Callable[[Any], bool]


class Locations(NamedTuple):
    """The paths of a node, all absolute, its community, and where it listens."""

    keys_dir: Path
    state_dir: Path
    blobs_dir: Path
    data_dir: Path
    log_dir: Path
    community_id: str | None
    host: str
    port: int
    tls_cert: Path | None


def locate(path: Path | None = None) -> Locations:
    """Returns the locations that the settings in `path`, or in the standard file, lead to.

    Raises:
        ConfigError: raised as `config.load` and `config.resolve_paths` do.
    """
    tree = expand(read_tree(path) or {})
    if _is_plain(tree):
        register_secrets(secrets_of((item["url"], item.get("api_key_env")) for item in _backends(tree)))
        with suppress(RuntimeError):  # no home directory: `resolve_paths` says so below
            return _plain_locations(tree)
    from hearthnet.config import load, resolve_paths

    return locations_of(resolve_paths(load(path)))


def locations_of(config: Config) -> Locations:
    """Returns the locations in settings whose paths are resolved."""
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
    """Returns the bytes that the node's files take, by what they are."""
    return {
        "telemetry_bytes": sum(bytes_of(path) for path in where.data_dir.glob(f"{DATABASE}*")),
        "log_bytes": bytes_of(where.log_dir),
        "blob_bytes": bytes_of(where.blobs_dir),
        "community_bytes": bytes_of(where.state_dir),
    }


def bytes_of(path: Path) -> int:
    """Returns the bytes of a file or of all files below a folder; 0 for what is not there."""
    files = path.rglob("*") if path.is_dir() else (path,)
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # removed since it was listed: a rotated log, a -wal
            continue
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


def _backends(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tree.get("llm", {}).get("backends", [])
    return found


def _is_plain(tree: Mapping[str, Any]) -> bool:
    """Returns whether every setting is obviously valid; False says nothing against any of them."""
    if not all(section in _PLAIN and _fits(values, _PLAIN[section]) for section, values in tree.items()):
        return False
    transport, discovery = tree.get("transport", {}), tree.get("discovery", {})
    if transport.get("port", DEFAULT_PORT) == discovery.get("udp_port", DEFAULT_UDP_PORT):
        return False
    return bool(transport.get("tls_cert")) == bool(transport.get("tls_key"))


def _fits(values: Any, accepted: Mapping[str, Accepts]) -> bool:
    return isinstance(values, dict) and all(key in accepted and accepted[key](item) for key, item in values.items())


def _between(low: float, high: float, *kinds: type) -> Accepts:
    return lambda value: type(value) in kinds and low <= value <= high


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    # What is not printable has surrogates, perhaps, which pydantic refuses.
    return isinstance(value, str) and value.isprintable()


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_empty(value: Any) -> bool:
    return bool(value == [])


def _are_backends(value: Any) -> bool:
    return isinstance(value, list) and all(
        _fits(item, _BACKEND) and _BACKEND.keys() - item <= {"api_key_env"} for item in value
    )


_is_port: Final = _between(1, 65_535, int)
_is_share: Final = _between(0, 1, int, float)
_BACKEND: Final[dict[str, Accepts]] = {
    "name": lambda value: value in ("llama_cpp", "ollama", "lmstudio", "hf_api", "anthropic_api"),
    "url": _is_text,
    "model": _is_text,
    "api_key_env": _is_text,
}
# What is accepted without asking pydantic: at most what the models in `sections` accept, which a test compares.
_PLAIN: Final[dict[str, dict[str, Accepts]]] = {
    "identity": {"keys_dir": _is_text, "auto_generate": _is_bool},
    "community": {"community_id": _is_text, "state_dir": _is_text},
    "transport": {
        "host": _is_text,
        "port": _is_port,
        "tls_cert": _is_text,
        "tls_key": _is_text,
        "hosts": _is_empty,
        "max_body_bytes": _between(1_024, 64_000_000, int),
        "max_connections": _between(16, 65_536, int),
        **dict.fromkeys(RETIRED_TRANSPORT, lambda _: True),
    },
    "discovery": {
        "mdns_enabled": _is_bool,
        "udp_enabled": _is_bool,
        "udp_multicast_group": _is_text,
        "udp_port": _is_port,
    },
    "bus": {"prefer_local": _is_bool, "local_load_threshold": _is_share},
    "llm": {"backends": _are_backends},
    "file": {"blobs_dir": _is_text, "gc_threshold": _is_share},
    "emergency": {"enabled": _is_bool, "probe_targets": _are_texts},
    "observability": {
        "log_level": lambda value: value in LEVELS,
        "log_dir": _is_text,
        "data_dir": _is_text,
        "metrics_enabled": _is_bool,
        "metrics_loopback_only": _is_bool,
        "otlp_endpoint": _is_text,
        "flush_interval_s": _between(0.05, 60, int, float),
        "eco": _is_bool,
        "max_disk_mb": _between(64, math.inf, int),
        "keep_free_mb": _between(0, math.inf, int),
        "slow_ms": _between(0.001, math.inf, int, float),
        "keep_debug_of_failures": _is_bool,
        "stall_s": _between(0, 3_600, int, float),
        "redact_keys": _is_empty,
        "redact_patterns": _is_empty,
    },
}
