"""The check of config.toml: that it can be read, names what there is, and opens nothing that should be closed."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from hearthnet.checks.finding import found, warned
from hearthnet.config import Config, LlmBackend, default_path, load, resolve_paths
from hearthnet.errors import ConfigError
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.redaction import is_secret

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["config_file", "unusable"]

_MAX_SHOWN: Final = 3  # what fits a line
_MAX_SETTINGS_BYTES: Final = 1_000_000
_TOML_PLACE: Final = re.compile(r"at line (\d+), column (\d+)")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAX_HOST_CHARS: Final = 253
_GROUP_OR_OTHERS_WRITE: Final = 0o022


def config_file(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """config.toml can be read, each of its settings is known and makes sense, and nobody else can change it."""
    path = config.source or default_path()
    if not path.exists() and config.source is None:
        return found(True, "no config.toml: the default settings hold", path=str(path))
    try:
        written = resolve_paths(load(path))
    except ConfigError as error:
        return unusable(error, path)
    evidence: dict[str, Any] = {"path": str(path)}
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _GROUP_OR_OTHERS_WRITE:
        evidence["mode"] = f"{mode:04o}"
        detail = f"others than its owner may change {path} (mode {mode:04o}), and with it what this node does"
        return found(False, detail, f"chmod 600 {shlex.quote(str(path))}", **evidence)
    if (trouble := _tls_trouble(written)) is not None:
        return found(False, trouble, f"{_editor()} {shlex.quote(str(path))}", **evidence)
    doubts = list(_doubts(written))
    if bus is not None and config.source is not None and (changed := _changed(config, written)):
        evidence["changed"] = changed
        doubts.append(f"[{'], ['.join(changed)}] changed since the node read it: start the node again to apply that")
    if doubts:
        more = f" (and {len(doubts) - _MAX_SHOWN} more)" if len(doubts) > _MAX_SHOWN else ""
        detail = "; ".join(doubts[:_MAX_SHOWN]) + more
        return warned(detail, f"{_editor()} {shlex.quote(str(path))}", **evidence, doubts=doubts)
    return found(True, f"{path}{_bindings(written)}", **evidence)


def unusable(error: ConfigError, path: Path) -> CheckResult:
    """Returns the finding about a file that no settings could be made of, with the line that is to blame."""
    line = _line_to_blame(error, path)
    place = "" if line is None else f" +{line}"
    fix = f"{_editor()}{place} {shlex.quote(str(path))}"
    if not path.exists():
        fix = error.hint or fix
    where = f" (line {line})" if line is not None and "line" not in error.message else ""
    hint = f"; {error.hint}" if error.hint and error.field else ""
    evidence = {"path": str(path), "code": error.code, "field": error.field, "line": line}
    return found(False, f"{error.message}{where}{hint}", fix, **evidence)


def _editor() -> str:
    return "${EDITOR:-vi}"


def _line_to_blame(error: ConfigError, path: Path) -> int | None:
    if (place := _TOML_PLACE.search(error.message)) is not None:
        return int(place[1])
    if error.field is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SETTINGS_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    *section, key = [part for part in error.field.split(".") if not part.isdecimal()]
    return _line_of(text, ".".join(section), key)


def _line_of(text: str, section: str, key: str) -> int | None:
    """Returns the line in which a setting of a section stands, the first of several, or the section's own."""
    current, begins = "", None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if words.startswith("["):
            current = words.partition("#")[0].strip(" []").replace(" ", "").replace('"', "")
            begins = begins or (number if current in (f"{section}.{key}".lstrip("."), section) else None)
        elif current == section and re.match(rf'"?{re.escape(key)}"?\s*=', words):
            return number
    return begins


def _changed(running: Config, written: Config) -> list[str]:
    """Returns the sections of the file that are not as the running node read them."""
    # Its level is not compared: `hearthnet run --debug` has one of its own.
    level = {"log_level": running.observability.log_level}
    written = written.model_copy(update={"observability": written.observability.model_copy(update=level)})
    return [name for name in Config.model_fields if getattr(running, name) != getattr(written, name)]


def _bindings(config: Config) -> str:
    """Returns what should be known of where the node listens; by default that is the whole network, without TLS."""
    transport = config.transport
    if transport.tls_cert is not None or _is_loopback(transport.host):
        return ""
    return f"; calls are signed, and not encrypted: [transport] has no tls_cert and listens on {transport.host}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls_trouble(config: Config) -> str | None:
    """Returns why the node could not begin to serve with its certificate."""
    transport = config.transport
    if transport.tls_cert is None or transport.tls_key is None:
        return None
    for name, file in (("tls_cert", transport.tls_cert), ("tls_key", transport.tls_key)):
        if not os.access(file, os.R_OK) or not file.is_file():
            return f"[transport] {name}: {file} is missing, or cannot be read"
    try:
        # An empty password: without one the library would ask for it at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(transport.tls_cert, transport.tls_key, password="")
    except (ssl.SSLError, OSError) as error:
        return f"[transport] tls_cert and tls_key are no pair that can be used: {getattr(error, 'reason', error)}"
    return None


def _doubts(config: Config) -> Iterator[str]:
    """Yields what is allowed, and hardly meant."""
    for target in config.emergency.probe_targets:
        if not _is_place(target):
            yield f"[emergency] probe_targets: {target!r} is no host and no host:port"
    for backend in config.llm.backends:
        yield from _doubts_of_backend(backend)
    endpoint = config.observability.otlp_endpoint
    if endpoint is not None and _holds_secret(endpoint):
        yield "[observability] otlp_endpoint has a key or a password in it: write ${NAME} and put it in the environment"
    key = config.transport.tls_key
    if key is not None and stat.S_IMODE(key.stat().st_mode) & 0o007:
        yield f"[transport] tls_key: everybody on this machine may read {key}"


def _doubts_of_backend(backend: LlmBackend) -> Iterator[str]:
    # Their urls and variables are not quoted: what is wrong with them may be a secret.
    where = f"[[llm.backends]] {backend.name}"
    place = _split(backend.url)
    if place is None or place.scheme not in ("http", "https") or not place.hostname:
        yield f"{where}: its url is none of http or https"
    elif _holds_secret(backend.url):
        yield f"{where}: its url has a key or a password in it: put the key into a variable that api_key_env names"
    if backend.api_key_env is not None and not _VARIABLE_NAME.fullmatch(backend.api_key_env):
        yield f"{where}: api_key_env is no name of a variable: if it is the key itself, take it out of the file"


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # half an IPv6 address
        return None


def _holds_secret(url: str) -> bool:
    place = _split(url)
    if place is None:
        return False
    return place.password is not None or any(is_secret(name) or name == "key" for name, _ in parse_qsl(place.query))


def _is_place(target: str) -> bool:
    try:
        place = urlsplit(f"//{target}")
        host, _ = place.hostname or "", place.port
    except ValueError:  # half an IPv6 address, a port that is none
        return False
    if place.netloc != target or "@" in target:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        return len(host) <= _MAX_HOST_CHARS and all(_HOST_LABEL.fullmatch(label) for label in labels)
    return True
