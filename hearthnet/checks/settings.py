"""The check of config.toml: that it can be read, names what there is, and is closed to others; see `exposure` too."""

from __future__ import annotations

import ipaddress
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from hearthnet.checks.results import found, warned
from hearthnet.config import Config, LlmBackend, default_path, load, resolve_paths
from hearthnet.errors import ConfigError
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.redaction.rules import is_secret

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["config_file", "unusable"]

_MAX_SHOWN: Final = 3  # what fits a line
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
    doubts = list(_doubts(written))
    if bus is not None and config.source is not None and (changed := _changed(config, written)):
        evidence["changed"] = changed
        doubts.append(f"[{'], ['.join(changed)}] changed since the node read it: start the node again to apply that")
    if doubts:
        more = f" (and {len(doubts) - _MAX_SHOWN} more)" if len(doubts) > _MAX_SHOWN else ""
        detail = "; ".join(doubts[:_MAX_SHOWN]) + more
        return warned(detail, f"{_editor()} {shlex.quote(str(path))}", **evidence, doubts=doubts)
    return found(True, str(path), **evidence)


def unusable(error: ConfigError, path: Path) -> CheckResult:
    """Returns the finding about a file that no settings could be made of; the fix opens it at the line, if known."""
    place = _TOML_PLACE.search(error.message)
    line = None if place is None else int(place[1])
    fix = f"{_editor()}{'' if line is None else f' +{line}'} {shlex.quote(str(path))}"
    if not path.exists():
        fix = error.hint or fix
    hint = f"; {error.hint}" if error.hint and error.field else ""
    evidence = {"path": str(path), "code": error.code, "field": error.field, "line": line}
    return found(False, f"{error.message}{hint}", fix, **evidence)


def _editor() -> str:
    return "${EDITOR:-vi}"


def _changed(running: Config, written: Config) -> list[str]:
    """Returns the sections of the file that are not as the running node read them."""
    # Its level is not compared: `hearthnet run --debug` has one of its own.
    level = {"log_level": running.observability.log_level}
    written = written.model_copy(update={"observability": written.observability.model_copy(update=level)})
    return [name for name in Config.model_fields if getattr(running, name) != getattr(written, name)]


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
