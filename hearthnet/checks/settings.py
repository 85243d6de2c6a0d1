"""The check of config.toml: readable, only known settings, sensible values, not writable by others."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from hearthnet.checks.results import MAX_NAMES, found, warned
from hearthnet.config import Config, LlmBackend, default_path, load, resolve_paths
from hearthnet.config_file import OTLP_ENDPOINT
from hearthnet.errors import ConfigError
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.redaction.rules import is_secret

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["config_file", "unusable"]

_TOML_POSITION: Final = re.compile(r"at line (\d+), column (\d+)")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_OF_COMMANDS: Final = "doctor"  # a section that each `hearthnet doctor` reads anew, and no node
_MAX_HOST_CHARS: Final = 253
_GROUP_OR_OTHERS_WRITE: Final = 0o022


def config_file(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """config.toml can be read, all its settings are known and sensible, and no other user can change it."""
    path = config.source or default_path()
    if not path.exists() and config.source is None:
        return found(True, "no config.toml: the defaults apply", path=str(path))
    try:
        written = resolve_paths(load(path))
    except ConfigError as error:
        return unusable(error, path)
    evidence: dict[str, Any] = {"path": str(path)}
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _GROUP_OR_OTHERS_WRITE:
        evidence["mode"] = f"{mode:04o}"
        detail = f"other users can change {path} (mode {mode:04o}) and so control this node"
        return found(False, detail, f"chmod 600 {shlex.quote(str(path))}", **evidence)
    doubts = list(_doubts(written))
    if bus is not None and config.source is not None and (changed := _changed(config, written)):
        evidence["changed"] = changed
        doubts.append(f"[{'], ['.join(changed)}] changed since the node started: restart it to apply the changes")
    if doubts:
        more = f" (and {len(doubts) - MAX_NAMES} more)" if len(doubts) > MAX_NAMES else ""
        detail = "; ".join(doubts[:MAX_NAMES]) + more
        return warned(detail, f"{_editor()} {shlex.quote(str(path))}", **evidence, doubts=doubts)
    return found(True, str(path), **evidence)


def unusable(error: ConfigError, path: Path) -> CheckResult:
    """Returns the finding about an invalid settings file; the fix opens it, at the line if that is known."""
    position = _TOML_POSITION.search(error.message)
    line = None if position is None else int(position[1])
    fix = f"{_editor()}{'' if line is None else f' +{line}'} {shlex.quote(str(path))}"
    if not path.exists():
        fix = error.hint or fix
    hint = f"; {error.hint}" if error.hint and error.field else ""
    evidence = {"path": str(path), "code": error.code, "field": error.field, "line": line}
    return found(False, f"{error.message}{hint}", fix, **evidence)


def _editor() -> str:
    return "${EDITOR:-vi}"


def _changed(running: Config, written: Config) -> list[str]:
    """Returns the sections of the file that differ from what the running node uses."""
    # The log level is not compared: `hearthnet run --debug` overrides it.
    level = {"log_level": running.observability.log_level}
    written = written.model_copy(update={"observability": written.observability.model_copy(update=level)})
    used = (name for name in Config.model_fields if name != _OF_COMMANDS)
    return [name for name in used if getattr(running, name) != getattr(written, name)]


def _doubts(config: Config) -> Iterator[str]:
    """Yields settings that are valid but probably a mistake."""
    for target in config.emergency.probe_targets:
        if not _is_address(target):
            yield f"[emergency] probe_targets: {target!r} is not a host or host:port"
    for backend in config.llm.backends:
        yield from _doubts_of_backend(backend)
    endpoint = config.observability.otlp_endpoint
    is_of_file = not os.environ.get(OTLP_ENDPOINT, "").strip()  # the variable wins
    if endpoint is not None and is_of_file and _holds_secret(endpoint):
        yield "[observability] otlp_endpoint contains a key or password; write ${NAME} and set it in the environment"


def _doubts_of_backend(backend: LlmBackend) -> Iterator[str]:
    # Urls and variables are not quoted: an invalid one may be a secret.
    where = f"[[llm.backends]] {backend.name}"
    url = _split(backend.url)
    if url is None or url.scheme not in ("http", "https") or not url.hostname:
        yield f"{where}: url is not an http or https URL"
    elif _holds_secret(backend.url):
        yield f"{where}: url contains a key or password; move it to a variable and name that in api_key_env"
    if backend.api_key_env is not None and not _VARIABLE_NAME.fullmatch(backend.api_key_env):
        yield f"{where}: api_key_env is not a variable name: if it is the key itself, remove it from the file"


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # half an IPv6 address
        return None


def _holds_secret(text: str) -> bool:
    url = _split(text)
    if url is None:
        return False
    return url.password is not None or any(is_secret(name) or name == "key" for name, _ in parse_qsl(url.query))


def _is_address(target: str) -> bool:
    try:
        url = urlsplit(f"//{target}")
        host, _ = url.hostname or "", url.port
    except ValueError:  # half an IPv6 address, an invalid port
        return False
    if url.netloc != target or "@" in target:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        return len(host) <= _MAX_HOST_CHARS and all(_HOST_LABEL.fullmatch(label) for label in labels)
    return True
