"""Models of the sections of config.toml: names, types, bounds, defaults, and what each setting means.

`config.save` writes the descriptions into the file as comments; docs/reference.md has the same words.

Each field is validated here on its own; `hearthnet.config.validate` checks fields that depend on each other.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from hearthnet.config_file import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_UDP_PORT, RETIRED_TRANSPORT
from hearthnet.errors import ConfigError
from hearthnet.observability.redaction.rules import check_pattern

__all__ = [
    "PROFILES",
    "COMMAND",
    "SECRET",
    "SECRET_SETTINGS",
    "BusConfig",
    "CommunityConfig",
    "DiscoveryConfig",
    "DoctorConfig",
    "EmergencyConfig",
    "FileConfig",
    "IdentityConfig",
    "LlmBackend",
    "LlmConfig",
    "ObservabilityConfig",
    "Section",
    "TransportConfig",
    "invalid_telemetry",
]


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return value


def _empty_is_none(value: Any) -> Any:
    return None if value == "" else value


def _in_lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Port = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=65_535)]
HostName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]+$|^\[?[0-9A-Fa-f:.]+\]?$")]
MaybePath = Annotated[Path | None, BeforeValidator(_empty_is_none)]
Share = Annotated[float, Field(ge=0, le=1)]
KeyName = Annotated[str, Field(min_length=2, max_length=64, pattern="[A-Za-z]")]
Pattern = Annotated[str, AfterValidator(check_pattern)]


SECRET: Final = "is_secret"  # noqa: S105  # marks a setting whose value is never shown
COMMAND: Final = "is_command"  # marks a command, whose arguments may be secret
SECRET_SETTINGS: Final = frozenset({("doctor", "webhook"), ("doctor", "command")})  # not quoted in an error


class Section(BaseModel):
    """A frozen section. An unknown key is an error, so that a misspelled one is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IdentityConfig(Section):
    """`[identity]`: the device key."""

    keys_dir: MaybePath = Field(default=None, description="folder of the device key; empty: `<DATA>/keys`")
    auto_generate: bool = Field(default=True, description="whether `init` may make a key")


class CommunityConfig(Section):
    """`[community]`: the community, and where its manifest and events are stored."""

    community_id: str | None = Field(
        default=None, description="which community; by default this node's own", examples=["ed25519:…"]
    )
    state_dir: MaybePath = Field(
        default=None, description="folder of manifests and event logs; empty: `<DATA>/communities`"
    )


class TransportConfig(Section):
    """`[transport]`: the HTTP server of the bus."""

    host: str = Field(default=DEFAULT_HOST, description="where the HTTP server listens")
    port: Port = Field(default=DEFAULT_PORT, description="port of the HTTP server")
    tls_cert: MaybePath = Field(
        default=None,
        description="certificate chain, PEM; with `tls_key` the server speaks HTTPS. Changed files are reloaded while"
        " the node runs, see `docs/operations.md`",
    )
    tls_key: MaybePath = Field(default=None, description="the key of `tls_cert`, PEM, not encrypted")
    hosts: Annotated[tuple[HostName, ...], Field(max_length=32)] = Field(
        default=(),
        description="further names and addresses by which callers may reach this node, such as a proxy's: see Refused"
        " requests",
    )
    max_body_bytes: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1_024, le=64_000_000)] = Field(
        default=1_000_000, description="the largest request body; a larger one is refused with 413"
    )
    max_connections: Annotated[int, BeforeValidator(_no_boolean), Field(ge=16, le=65_536)] = Field(
        default=256, description="open connections at one time"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """Ignores settings that earlier versions wrote into every config.toml."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in RETIRED_TRANSPORT}


class DiscoveryConfig(Section):
    """`[discovery]`: how nodes find each other; for modules that do not exist yet."""

    mdns_enabled: bool = Field(default=True, description="whether nodes are looked for by mDNS")
    udp_enabled: bool = Field(default=True, description="whether nodes are looked for by UDP multicast")
    udp_multicast_group: str = Field(default="239.255.42.42", description="group of the UDP multicast")
    udp_port: Port = Field(default=DEFAULT_UDP_PORT, description="port of the UDP multicast")


class BusConfig(Section):
    """`[bus]`: how calls are routed; for modules that do not exist yet."""

    prefer_local: bool = Field(default=True, description="whether our own capabilities are preferred")
    local_load_threshold: Share = Field(default=0.8, description="up to which load our own are preferred")


class LlmBackend(Section):
    """One of `[[llm.backends]]`. It never holds the key: `api_key_env` names the variable that does."""

    name: Literal["llama_cpp", "ollama", "lmstudio", "hf_api", "anthropic_api"] = Field(
        description="the kind of server", examples=["ollama"]
    )
    url: str = Field(description="its address", examples=["http://127.0.0.1:11434"])
    model: str = Field(description="the model that it serves", examples=["llama3.2"])
    api_key_env: str | None = Field(
        default=None, description="the environment variable that holds its key, if it wants one", examples=["HF_TOKEN"]
    )

    def api_key(self) -> str | None:
        """Returns the key from the environment, or None. It is not cached."""
        return None if self.api_key_env is None else os.environ.get(self.api_key_env)


class LlmConfig(Section):
    """`[llm]`: the language model servers that calls are forwarded to."""

    backends: tuple[LlmBackend, ...] = Field(
        default=(),
        description="list of `name`, `url`, `model`, `api_key_env` (the name of the variable that holds the key): the"
        " servers that `llm.chat` tries, in this order",
    )


class FileConfig(Section):
    """`[file]`: the blob store."""

    blobs_dir: MaybePath = Field(default=None, description="folder of the blobs; empty: `<DATA>/blobs`")
    gc_threshold: Share = Field(
        default=0.8,
        description="how full the disk may be before blobs are removed; for a module that does not exist yet",
    )


class EmergencyConfig(Section):
    """`[emergency]`: detection of a lost internet connection."""

    enabled: bool = Field(
        default=False,
        description="whether the node probes the internet: one TCP connection every 30 s, without sending data; two"
        " failed rounds are an emergency",
    )
    probe_targets: tuple[str, ...] = Field(
        default=("1.1.1.1", "8.8.8.8", "cloudflare.com", "quad9.net"),
        description="the hosts to probe, `host` (port 443) or `host:port`, until one connects. The doctor's clock check"
        " asks them for their HTTP date if `emergency.enabled` is true or these are not the defaults; otherwise the"
        " doctor sends nothing to the internet, except to `llm.backends`",
    )


class ObservabilityConfig(Section):
    """`[observability]`: logs, metrics, traces and their store.

    Raises:
        ConfigError: raised as `invalid_field`, with the setting's name, for a program's values that cannot be.
    """

    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_in_lower_case)] = (
        Field(default="info", description="lowest level that is logged")
    )
    log_dir: MaybePath = Field(
        default=None, description="folder of the JSON logs; empty: `<LOG>`, whatever `data_dir` is, in programs too"
    )
    data_dir: MaybePath = Field(
        default=None, description="folder of `telemetry.db`; empty: `<DATA>`, whatever `log_dir` is, in programs too"
    )
    metrics_enabled: bool = Field(default=True, description="whether metrics are kept, and served at `GET /metrics`")
    metrics_loopback_only: bool = Field(default=False, description="whether `GET /metrics` serves this machine alone")
    otlp_endpoint: str | None = Field(
        default=None,
        description="base URL of a backend that takes OTLP over HTTP; the environment's `OTEL_EXPORTER_OTLP_ENDPOINT`"
        " wins. Needs `pip install 'hearthnet[otlp]'`, see `docs/opentelemetry.md`",
        examples=["http://localhost:4318"],
    )
    flush_interval_s: Annotated[float, Field(ge=0.05, le=60)] = Field(
        default=1.0, description="time between commits; a failure is committed at once"
    )
    eco: bool = Field(
        default=False,
        description="for slow cards: ordinary records are committed every 30 s, failures within 5 s; a power cut may"
        " then cost 30 s",
    )
    max_disk_mb: Annotated[int, Field(ge=64)] = Field(
        default=256, description="limit for database, WAL, black boxes, a quarantined database and JSON logs together"
    )
    keep_free_mb: Annotated[int, Field(ge=0)] = Field(
        default=128,
        description="disk space to leave free, or 5 % of a small disk: below it telemetry does not grow, and only"
        " warnings and errors go to the JSON log",
    )
    slow_ms: Annotated[float, Field(gt=0)] = Field(
        default=5_000.0, description="a trace that takes this long is notable"
    )
    keep_debug_of_failures: bool = Field(
        default=False,
        description="a trace that fails or is slow stores its debug records in `logs`, whatever the level; each costs"
        " a few microseconds",
    )
    stall_s: Annotated[float, Field(ge=0, le=3_600)] = Field(
        default=2.0, description="time without a heartbeat after which the event loop counts as stuck; 0: no watchdog"
    )
    # Bounded: each pattern runs over every recorded text.
    redact_keys: Annotated[tuple[KeyName, ...], Field(max_length=64)] = Field(
        default=(),
        description='further names whose values are never recorded, such as `["house code"]`: in any spelling, and'
        " within longer names",
    )
    redact_patterns: Annotated[tuple[Pattern, ...], Field(max_length=16)] = Field(
        default=(),
        description="regular expressions for further secrets in texts; if one has a group, only the group is replaced",
    )

    def __new__(cls, **values: Any) -> Self:
        """Checks a program's values. Pydantic makes a section of a file without any, so the file is named there."""
        if values:
            try:
                cls.model_validate(values)
            except ValidationError as error:
                raise invalid_telemetry(error) from error
        return super().__new__(cls)


def invalid_telemetry(error: ValidationError) -> ConfigError:
    """Returns the error of the first value that cannot be, of `[observability]` as a program passes it."""
    problem = error.errors(include_url=False)[0]
    key, hint = ".".join(map(str, problem["loc"])), None
    text = f"{problem['input']!r}: {problem['msg'].lower()}"
    if problem["type"] == "extra_forbidden":
        alike = get_close_matches(key, ObservabilityConfig.model_fields, 1)
        hint = f"did you mean {alike[0]}?" if alike else f"there are: {', '.join(ObservabilityConfig.model_fields)}"
        text = f"no such setting; {hint}"  # in the message, too: a traceback does not show the hint
    return ConfigError(
        "invalid_field", field=f"observability.{key}", message=f"[observability] {key}: {text}", hint=hint
    )


class DoctorConfig(Section):
    """`[doctor]`: whom `hearthnet doctor --notify` tells about changes."""

    webhook: Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*$", max_length=2_048)] | None = Field(
        default=None,
        description="URL that a message is posted to, as ntfy takes it; never shown, since for many services it is the"
        " key. `${NAME}` keeps it out of this file",
        examples=["https://ntfy.example.org/my-topic"],
        json_schema_extra={SECRET: True},
    )
    webhook_format: Literal["text", "json"] = Field(
        default="text", description="`text`: the message, with the headers Title, Priority and Tags; `json`: a document"
    )
    webhook_token_env: str | None = Field(
        default=None, description="the environment variable that holds a bearer token for it", examples=["NTFY_TOKEN"]
    )
    command: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=64)] = Field(
        default=(),
        description="program and arguments that get the message as JSON on standard input, within 30 s",
        json_schema_extra={COMMAND: True},
    )
    mail: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9._%+][A-Za-z0-9._%+-]*(@[A-Za-z0-9.-]+)?$", max_length=254)] | None
    ) = Field(
        default=None,
        description="address that a mail is sent to, by this machine's `sendmail`",
        examples=["me@example.org"],
    )
    notify_level: Literal["fail", "warn"] = Field(
        default="fail", description="from which result on a check is reported; `warn` includes failures"
    )


# What `init --profile` writes instead of the defaults, by section: of a machine that is always on, of a laptop, and of
# a Raspberry Pi, whose card is small and slow. The shares of database, WAL and black boxes follow from `max_disk_mb`.
PROFILES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "anchor": {"observability": {"max_disk_mb": 512}},
    "hearth": {},
    "spark": {"observability": {"eco": True, "max_disk_mb": 128}},
}
