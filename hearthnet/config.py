"""The node's settings: the one source of them at run time. No other module reads files, flags or the environment.

Settings are frozen. `load` reads config.toml, replaces `${NAME}` from the environment, checks every key and value, and
either returns all of it or raises; nothing is half applied. `resolve_paths` fills in where things lie on this system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, PrivateAttr, ValidationError

from hearthnet.config_file import (
    StandardPaths,
    absolute,
    default_path,
    expand,
    has_variable,
    key_of,
    read_tree,
    secrets_of,
    section_of,
    standard_paths,
)
from hearthnet.config_sections import (
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
from hearthnet.errors import ConfigError
from hearthnet.files import replace_private
from hearthnet.observability.redaction.rules import register_secrets

__all__ = [
    "Config",
    "EmergencyConfig",
    "LlmBackend",
    "LlmConfig",
    "ObservabilityConfig",
    "TransportConfig",
    "default_config",
    "default_path",
    "known_secrets",
    "load",
    "resolve_paths",
    "save",
    "validate",
]

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
    tree = read_tree(path)
    if tree is None:
        register_secrets(known_secrets(default_config()))
        return default_config()
    try:
        config = Config.model_validate(expand(tree))
    except ValidationError as error:
        raise _invalid(error, source, tree) from error
    validate(config)
    register_secrets(known_secrets(config))
    return config.read_from(source)


def known_secrets(config: Config) -> list[str]:
    """Returns the secrets that this program was given: variables of such a name, keys and passwords of backends."""
    return secrets_of((backend.url, backend.api_key_env) for backend in config.llm.backends)


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
        message=f"{source}: [{section_of(name)}] {key_of(name)}: {what}{more}",
        hint=hint,
    )


def _as_written(tree: Any, problem: Any) -> str:
    """Returns the value as it stands in the file: what came from the environment may be a secret."""
    for part in problem["loc"]:
        if isinstance(tree, dict | list):
            tree = tree[part] if isinstance(part, int) or part in tree else None
    return repr(tree if has_variable(tree) else problem["input"])


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
        return _with_paths(config, standard_paths())
    except RuntimeError as error:  # pathlib found no home directory
        raise ConfigError("path_resolution", message=f"no home directory: {error}", hint="set HOME") from error


def _with_paths(config: Config, standard: StandardPaths) -> Config:
    def update(section: M, **defaults: Path | None) -> M:
        paths = {name: getattr(section, name) or default for name, default in defaults.items()}
        return section.model_copy(update={name: path and absolute(path) for name, path in paths.items()})

    return config.model_copy(
        update={
            "identity": update(config.identity, keys_dir=standard.keys_dir),
            "community": update(config.community, state_dir=standard.state_dir),
            "transport": update(config.transport, tls_cert=None, tls_key=None),
            "file": update(config.file, blobs_dir=standard.blobs_dir),
            "observability": update(config.observability, data_dir=standard.data_dir, log_dir=standard.log_dir),
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
