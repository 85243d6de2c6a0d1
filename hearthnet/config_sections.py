"""Models of the sections of config.toml: names, types, bounds and defaults.

Each field is validated here on its own; `hearthnet.config.validate` checks fields that depend on each other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hearthnet.config_file import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_UDP_PORT, RETIRED_TRANSPORT
from hearthnet.observability.redaction.rules import check_pattern

__all__ = [
    "BusConfig",
    "CommunityConfig",
    "DiscoveryConfig",
    "EmergencyConfig",
    "FileConfig",
    "IdentityConfig",
    "LlmBackend",
    "LlmConfig",
    "ObservabilityConfig",
    "Section",
    "TransportConfig",
]


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return value


def _empty_is_none(value: Any) -> Any:
    return None if value == "" else value


Port = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=65_535)]
HostName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$|^\[?[0-9A-Fa-f:.]+\]?$")]
MaybePath = Annotated[Path | None, BeforeValidator(_empty_is_none)]
Share = Annotated[float, Field(ge=0, le=1)]
KeyName = Annotated[str, Field(min_length=2, max_length=64, pattern="[A-Za-z]")]
Pattern = Annotated[str, AfterValidator(check_pattern)]


class Section(BaseModel):
    """A frozen section. An unknown key is an error, so that a misspelled one is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IdentityConfig(Section):
    """`[identity]`: the device key."""

    keys_dir: MaybePath = None
    auto_generate: bool = True


class CommunityConfig(Section):
    """`[community]`: the community, and where its manifest and events are stored."""

    community_id: str | None = None
    state_dir: MaybePath = None


class TransportConfig(Section):
    """`[transport]`: the HTTP server of the bus."""

    host: str = DEFAULT_HOST
    port: Port = DEFAULT_PORT
    tls_cert: MaybePath = None
    tls_key: MaybePath = None
    # Further host names by which callers may reach this node, such as a reverse proxy's.
    hosts: Annotated[tuple[HostName, ...], Field(max_length=32)] = ()
    max_body_bytes: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1_024, le=64_000_000)] = 1_000_000
    max_connections: Annotated[int, BeforeValidator(_no_boolean), Field(ge=16, le=65_536)] = 256

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """Ignores settings that earlier versions wrote into every config.toml."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in RETIRED_TRANSPORT}


class DiscoveryConfig(Section):
    """`[discovery]`: how nodes find each other."""

    mdns_enabled: bool = True
    udp_enabled: bool = True
    udp_multicast_group: str = "239.255.42.42"
    udp_port: Port = DEFAULT_UDP_PORT


class BusConfig(Section):
    """`[bus]`: how calls are routed."""

    prefer_local: bool = True
    local_load_threshold: Share = 0.8


class LlmBackend(Section):
    """One of `[[llm.backends]]`. It never holds the key: `api_key_env` names the variable that does."""

    name: Literal["llama_cpp", "ollama", "lmstudio", "hf_api", "anthropic_api"]
    url: str
    model: str
    api_key_env: str | None = None

    def api_key(self) -> str | None:
        """Returns the key from the environment, or None. It is not cached."""
        return None if self.api_key_env is None else os.environ.get(self.api_key_env)


class LlmConfig(Section):
    """`[llm]`: the language model servers that calls are forwarded to."""

    backends: tuple[LlmBackend, ...] = ()


class FileConfig(Section):
    """`[file]`: the blob store."""

    blobs_dir: MaybePath = None
    gc_threshold: Share = 0.8


class EmergencyConfig(Section):
    """`[emergency]`: detection of a lost internet connection."""

    enabled: bool = False
    probe_targets: tuple[str, ...] = ("1.1.1.1", "8.8.8.8", "cloudflare.com", "quad9.net")


class ObservabilityConfig(Section):
    """`[observability]`: logs, metrics, traces and their store."""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_dir: MaybePath = None
    data_dir: MaybePath = None
    metrics_enabled: bool = True
    metrics_loopback_only: bool = False
    otlp_endpoint: str | None = None
    flush_interval_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    eco: bool = False
    max_disk_mb: Annotated[int, Field(ge=64)] = 256
    keep_free_mb: Annotated[int, Field(ge=0)] = 128
    slow_ms: Annotated[float, Field(gt=0)] = 5_000.0
    keep_debug_of_failures: bool = False
    stall_s: Annotated[float, Field(ge=0, le=3_600)] = 2.0
    # Bounded: each pattern runs over every recorded text.
    redact_keys: Annotated[tuple[KeyName, ...], Field(max_length=64)] = ()
    redact_patterns: Annotated[tuple[Pattern, ...], Field(max_length=16)] = ()
