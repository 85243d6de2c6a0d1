"""The node's settings: the one source of them at run time. No other module reads files, flags or the environment.

Settings are frozen. `load` reads config.toml, replaces `${NAME}` from the environment, checks every key and value, and
either returns all of it or raises; nothing is half applied. `resolve_paths` fills in where things lie on this system.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar, get_args
from urllib.parse import unquote, urlsplit

import platformdirs
from pydantic import BaseModel, PrivateAttr, ValidationError

from hearthnet.errors import ConfigError
from hearthnet.files import replace_private
from hearthnet.observability.redaction import is_secret, register_secrets
from hearthnet.sections import (
    BusConfig,
    CommunityConfig,
    DiscoveryConfig,
    EmergencyConfig,
    FileConfig,
    IdentityConfig,
    LlmBackend,
    LlmConfig,
    ObservabilityConfig,
    Section,
    TransportConfig,
)

__all__ = [
    "Config",
    "EmergencyConfig",
    "LlmBackend",
    "LlmConfig",
    "ObservabilityConfig",
    "TransportConfig",
    "default_config",
    "known_secrets",
    "load",
    "resolve_paths",
    "save",
    "validate",
]

APP: Final = "hearthnet"
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


M = TypeVar("M", bound=Section)


class Source:
    """The file that settings were read from. It is no setting: two sources never make settings different."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source)

    def __hash__(self) -> int:
        return 0


class Config(Section):
    """All settings of a node."""

    _source: Source = PrivateAttr(default_factory=Source)

    identity: IdentityConfig = IdentityConfig()
    community: CommunityConfig = CommunityConfig()
    transport: TransportConfig = TransportConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    bus: BusConfig = BusConfig()
    llm: LlmConfig = LlmConfig()
    file: FileConfig = FileConfig()
    emergency: EmergencyConfig = EmergencyConfig()
    observability: ObservabilityConfig = ObservabilityConfig()

    @property
    def source(self) -> Path | None:
        """The file that these settings were read from; None when they are the defaults, or were made by a program."""
        return self._source.path

    def read_from(self, path: Path) -> Config:
        """Returns these settings as those of a file."""
        made = self.model_copy()
        made._source = Source(path.absolute())  # noqa: SLF001  # of this class itself
        return made


def default_path() -> Path:
    """Returns where config.toml lies unless another path is given."""
    return Path(platformdirs.user_config_dir(APP)) / "config.toml"


def default_config() -> Config:
    """Returns the settings of a node that nobody configured; paths are empty until `resolve_paths`."""
    return Config()


def load(path: Path | None = None) -> Config:
    """Returns the settings in `path` (default: the standard place; a missing file there means the defaults).

    What the environment has of secrets, under a secret's name or named in the file, is never recorded from then on.

    Raises:
        ConfigError: raised as `invalid_toml` for a file that is no TOML or cannot be read, as `invalid_field` for an
            unknown key, a value of the wrong kind, or a variable that is not set.
    """
    source = default_path() if path is None else path
    try:
        text = source.read_text("utf-8")
    except FileNotFoundError as error:
        if path is None:
            register_secrets(known_secrets(default_config()))
            return default_config()
        raise ConfigError(
            "invalid_toml", message=f"{source} does not exist", hint="make one with: hearthnet init"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("invalid_toml", message=f"{source} cannot be read: {error}") from error
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(
            "invalid_toml",
            message=f"{source} is not valid TOML: {error}",
            hint="fix that line, or delete the file",
        ) from error
    register_secrets(_variables(tree))  # first: an error in the settings may be logged with them
    try:
        config = Config.model_validate(_expand(tree, ""))
    except ValidationError as error:
        raise _invalid(error, source, tree) from error
    validate(config)
    register_secrets(known_secrets(config))
    return config.read_from(source)


def known_secrets(config: Config) -> list[str]:
    """Returns the secrets that this program was given: variables of such a name, keys and passwords of backends."""
    given = [value for name, value in os.environ.items() if is_secret(name)]
    for backend in config.llm.backends:
        given += filter(None, (backend.api_key(), _password(backend.url)))
    return given


def _password(url: str) -> str | None:
    try:
        password = urlsplit(url).password
    except ValueError:  # half an IPv6 address
        return None
    return None if password is None else unquote(password)


def _variables(value: Any) -> list[str]:
    """Returns what the environment has for each `${NAME}` in the tree: who keeps it out of the file has a reason."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [found for item in items for found in _variables(item)]
    return [os.environ.get(name, "") for name in _VARIABLE.findall(value)] if isinstance(value, str) else []


def _expand(value: Any, name: str) -> Any:
    """Returns the tree with `${NAME}` in its strings replaced."""
    if isinstance(value, dict):
        return {key: _expand(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, name) for item in value]
    return _VARIABLE.sub(lambda match: _variable(match[1], name), value) if isinstance(value, str) else value


def _variable(variable: str, name: str) -> str:
    if variable not in os.environ:
        raise ConfigError(
            "invalid_field",
            field=name,
            message=f"[{_section(name)}] {_key(name)}: the environment has no {variable}",
            hint=f"set it: export {variable}=…",
        )
    return os.environ[variable]


def _section(name: str) -> str:
    return name.rpartition(".")[0] or name


def _key(name: str) -> str:
    return name.rpartition(".")[2]


def _invalid(error: ValidationError, source: Path, tree: Any) -> ConfigError:
    """Returns the first thing that is wrong, by section, key and value, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        what, hint = "no such setting", _known_keys(first["loc"])
    else:
        what, hint = f"{_as_written(tree, first)}: {first['msg'].lower()}", None
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ConfigError(
        "invalid_field",
        field=name,
        message=f"{source}: [{_section(name)}] {_key(name)}: {what}{more}",
        hint=hint,
    )


def _as_written(tree: Any, problem: Any) -> str:
    """Returns the value as it stands in the file: what came from the environment may be a secret."""
    for part in problem["loc"]:
        if isinstance(tree, dict | list):
            tree = tree[part] if isinstance(part, int) or part in tree else None
    is_variable = isinstance(tree, str) and _VARIABLE.search(tree) is not None
    return repr(tree if is_variable else problem["input"])


def _known_keys(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        for candidate in (field.annotation, *get_args(field.annotation)) if field is not None else ():
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return f"known here: {', '.join(model.model_fields)}"


def validate(config: Config) -> None:
    """Checks what no single field can tell.

    Raises:
        ConfigError: raised as `invalid_field`.
    """
    transport, discovery = config.transport, config.discovery
    if transport.port == discovery.udp_port:
        raise ConfigError(
            "invalid_field",
            field="transport.port",
            message=f"[transport] port: {transport.port} is the port of [discovery] udp_port too",
            hint="give the two different ports",
        )
    if (transport.tls_cert is None) != (transport.tls_key is None):
        raise ConfigError(
            "invalid_field",
            field="transport.tls_cert",
            message="[transport] tls_cert and tls_key: one is set without the other",
            hint="set both, or neither",
        )


def resolve_paths(config: Config) -> Config:
    """Returns the settings with every empty path filled in and `~` expanded; idempotent.

    Raises:
        ConfigError: raised as `path_resolution` when this system names no home for them.
    """
    try:
        data = Path(platformdirs.user_data_dir(APP))
        logs = Path(platformdirs.user_log_dir(APP))
        return _with_paths(config, data, logs)
    except RuntimeError as error:  # pathlib found no home directory
        raise ConfigError("path_resolution", message=f"no home directory: {error}", hint="set HOME") from error


def _with_paths(config: Config, data: Path, logs: Path) -> Config:
    def update(section: M, **standard: Path | None) -> M:
        paths = {name: getattr(section, name) or default for name, default in standard.items()}
        return section.model_copy(update={name: path and path.expanduser().absolute() for name, path in paths.items()})

    return config.model_copy(
        update={
            "identity": update(config.identity, keys_dir=data / "keys"),
            "community": update(config.community, state_dir=data / "communities"),
            "transport": update(config.transport, tls_cert=None, tls_key=None),
            "file": update(config.file, blobs_dir=data / "blobs"),
            "observability": update(config.observability, data_dir=data, log_dir=logs),
        }
    )


def save(config: Config, path: Path | None = None) -> Path:
    """Writes the settings, atomically and with mode 0600, and returns where.

    Raises:
        OSError: raised when the file cannot be written; the old one is then untouched.
    """
    import tomli_w

    target = default_path() if path is None else path
    replace_private(target, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode())
    return target
