"""Where telemetry is exported to: `[observability] otlp_endpoint`, and the standard variables of OpenTelemetry.

The variables win over config.toml, the endpoint that a program passes wins over both; a variable for one signal wins
over all. What cannot be used is a doubt, in words without its value, which may be a secret; the rest counts. Pure: the
environment is an argument.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from hearthnet.config_file import OTLP_ENDPOINT
from hearthnet.errors import HearthNetError

__all__ = ["LogsOrTraces", "Settings", "SettingsError", "Target", "read"]

LogsOrTraces = Literal["traces", "logs"]
Environment = Mapping[str, str]

SIGNALS: Final[tuple[LogsOrTraces, ...]] = ("traces", "logs")
_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_PROTOCOLS: Final = {"http/protobuf": False, "http/json": True}  # name: is it JSON
_TIMEOUT_MS: Final = 10_000.0
_MIN_TIMEOUT_MS: Final = 100.0
_GRPC_PORT: Final = 4317
_SCHEME: Final = re.compile(r"(Basic|Bearer|Token|Api-?Key|Digest)\s+(\S.*)", re.IGNORECASE)


class SettingsError(HearthNetError):
    """Raised when the endpoint is no URL that can be sent to."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one signal goes, and how.

    Attributes:
        url: of the POST, complete; without user and password.
        headers: of each request, secrets among them.
        timeout_s: of each request.
        is_json: whether requests are JSON, not protobuf.
        is_gzip: whether they are compressed.
        certificate: a file with the certificates to trust; None: the usual ones.
        client_certificate: a file with our own; None: none.
        client_key: a file with its key.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = _TIMEOUT_MS / 1_000
    is_json: bool = False
    is_gzip: bool = False
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None

    @property
    def port(self) -> int | None:
        """The port of the url, if it names one."""
        return urlsplit(self.url).port


@dataclass(frozen=True, slots=True)
class Settings:
    """Where everything goes.

    Attributes:
        targets: by signal; one that is switched off has none.
        service_name: `OTEL_SERVICE_NAME`, or that of `OTEL_RESOURCE_ATTRIBUTES`.
        resource: the attributes of `OTEL_RESOURCE_ATTRIBUTES` but that name.
        has_exception_events: False where exceptions are log records alone.
        doubts: settings that have no effect, or one that was hardly meant.
    """

    targets: Mapping[LogsOrTraces, Target]
    service_name: str | None = None
    resource: Mapping[str, str] = field(default_factory=dict)
    has_exception_events: bool = True
    doubts: tuple[str, ...] = ()

    def secrets(self) -> list[str]:
        """Returns the values of all headers, as what authenticates is among them, and the token or password within."""
        values = dict.fromkeys(value for target in self.targets.values() for value in target.headers.values())
        return [secret for value in values for secret in (value, *_within(value))]


def read(endpoint: str | None, environment: Environment) -> Settings | None:
    """Returns the settings; None if nothing is to be exported.

    Args:
        endpoint: `otlp_endpoint` of the settings: a base URL, `/v1/traces` and `/v1/logs` are appended. None: that of
            the environment. (`config.load` has put the environment's in place of the file's already.)
        environment: the variables.

    Raises:
        SettingsError: raised when an endpoint is no http or https URL.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    doubts: list[str] = []
    targets = {}
    for signal in SIGNALS:
        url = _url(signal, endpoint, environment, doubts)
        if url is not None and _is_wanted(signal, environment, doubts):
            targets[signal] = _target(signal, url, environment, doubts)
    if not targets:
        return None
    if _get(environment, "INSECURE"):
        doubts.append(f"{_PREFIX}INSECURE has no effect: the scheme of the URL decides, https is always verified")
    resource = dict(_pairs("OTEL_RESOURCE_ATTRIBUTES", environment, doubts))
    of_resource = resource.pop("service.name", None)
    opted = environment.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "").strip()
    return Settings(
        targets,
        environment.get("OTEL_SERVICE_NAME", "").strip() or of_resource,
        resource,
        opted != "logs",
        tuple(dict.fromkeys(doubts)),
    )


def _is_wanted(signal: str, environment: Environment, doubts: list[str]) -> bool:
    """Returns False where the variable that chooses exporters leaves OTLP out."""
    name = f"OTEL_{signal.upper()}_EXPORTER"
    chosen = [item.strip() for item in environment.get(name, "otlp").split(",")]
    if "otlp" not in chosen and chosen not in (["none"], [""]):
        doubts.append(f"{name} names no exporter that is known here: otlp, none")
    return "otlp" in chosen or chosen == [""]


# --- the URL


def _url(signal: str, endpoint: str | None, environment: Environment, doubts: list[str]) -> SplitResult | None:
    own = f"{_PREFIX}{signal.upper()}_ENDPOINT"
    if given := environment.get(own, "").strip():
        return _checked(given, own, doubts)  # used as it is
    name = "[observability] otlp_endpoint" if endpoint else OTLP_ENDPOINT
    given = (endpoint or environment.get(OTLP_ENDPOINT, "")).strip()
    return _joined(_checked(given, name, doubts), signal, name, doubts) if given else None


def _checked(given: str, name: str, doubts: list[str]) -> SplitResult:
    """Returns the parts of a URL.

    Raises:
        SettingsError: raised when it is no http or https URL; its text is not shown, it may have a password.
    """
    try:
        url = urlsplit(given)
        port = url.port
    except ValueError:  # half an IPv6 address, a port that is no number
        url, port = urlsplit(""), None
    if url.scheme not in ("http", "https") or not url.hostname:
        hint = "write it like http://localhost:4318"
        raise SettingsError(f"{name} is no http or https URL", hint=hint)
    if port == _GRPC_PORT:
        doubts.append(f"{name} has port {_GRPC_PORT}, that of gRPC: OTLP over HTTP usually has 4318")
    return url


def _joined(url: SplitResult, signal: str, name: str, doubts: list[str]) -> SplitResult:
    path = url.path.rstrip("/")
    if path.endswith(("/v1/traces", "/v1/logs")):
        doubts.append(f"{name} ends with the path of a signal, which is appended once more: leave /v1/… away")
    if url.query or url.fragment:
        doubts.append(f"{name} has a query or a fragment: it is kept behind the path of the signal")
    return url._replace(path=f"{path}/v1/{signal}", fragment="")


# --- everything else


def _get(environment: Environment, name: str, signal: str | None = None) -> str:
    """Returns a variable of OTLP: that of the signal, else that of all."""
    own = environment.get(f"{_PREFIX}{signal.upper()}_{name}", "").strip() if signal else ""
    return own or environment.get(f"{_PREFIX}{name}", "").strip()


def _target(signal: str, url: SplitResult, environment: Environment, doubts: list[str]) -> Target:
    headers: dict[str, str] = {}
    for name in (f"{_PREFIX}HEADERS", f"{_PREFIX}{signal.upper()}_HEADERS"):
        headers |= {key.lower(): value for key, value in _pairs(name, environment, doubts).items()}
    if url.username is not None and "authorization" not in headers:
        headers["authorization"] = _basic(url.username, url.password)
    host = url.netloc.rpartition("@")[2]
    return Target(
        urlunsplit(url._replace(netloc=host)),
        headers,
        _timeout_s(signal, environment, doubts),
        _is_json(signal, environment, doubts),
        _is_gzip(signal, environment, doubts),
        _get(environment, "CERTIFICATE", signal) or None,
        _get(environment, "CLIENT_CERTIFICATE", signal) or None,
        _get(environment, "CLIENT_KEY", signal) or None,
    )


def _basic(user: str, password: str | None) -> str:
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def _within(value: str) -> Iterator[str]:
    """Yields the token behind the scheme of an `Authorization`; of user and password the latter, too."""
    if (match := _SCHEME.fullmatch(value)) is None:
        return
    yield match[2]
    if match[1].lower() == "basic":
        with suppress(ValueError):
            yield b64decode(match[2]).decode().partition(":")[2]


def _pairs(name: str, environment: Environment, doubts: list[str]) -> dict[str, str]:
    """Returns the pairs of `a=1,b=2`, values percent-decoded; anything else is a doubt, by the name alone."""
    found = {}
    for item in environment.get(name, "").split(","):
        key, is_pair, value = item.strip().partition("=")
        key, value = key.strip(), unquote(value.strip())
        if is_pair and _is_token(key) and _is_sendable(value):
            found[key] = value
        elif item.strip():
            doubts.append(f"{name} has an item that is no name=value, which is ignored")
    return found


def _is_token(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable() and not any(char in ' ";,:()<>@[]{}' for char in key)


def _is_sendable(value: str) -> bool:
    return not any(ord(char) < 32 or ord(char) == 127 for char in value)


def _timeout_s(signal: str, environment: Environment, doubts: list[str]) -> float:
    text = _get(environment, "TIMEOUT", signal)
    if not text:
        return _TIMEOUT_MS / 1_000
    try:
        timeout_ms = float(text)
    except ValueError:
        timeout_ms = math.nan
    if not 0 < timeout_ms < math.inf:
        doubts.append(f"{_PREFIX}TIMEOUT is no number of milliseconds: 10000 is used")
        return _TIMEOUT_MS / 1_000
    if timeout_ms < _MIN_TIMEOUT_MS:
        doubts.append(f"{_PREFIX}TIMEOUT is {timeout_ms:g} milliseconds; if seconds are meant, write {text}000")
    return timeout_ms / 1_000


def _is_json(signal: str, environment: Environment, doubts: list[str]) -> bool:
    protocol = _get(environment, "PROTOCOL", signal) or "http/protobuf"
    if protocol not in _PROTOCOLS:
        words = "; gRPC has port 4317, HTTP 4318" if protocol == "grpc" else ""
        doubts.append(f"{_PREFIX}PROTOCOL is neither http/protobuf nor http/json: http/protobuf is used{words}")
    return _PROTOCOLS.get(protocol, False)


def _is_gzip(signal: str, environment: Environment, doubts: list[str]) -> bool:
    compression = _get(environment, "COMPRESSION", signal) or "none"
    if compression not in ("gzip", "none"):
        doubts.append(f"{_PREFIX}COMPRESSION is neither gzip nor none: none is used")
    return compression == "gzip"
