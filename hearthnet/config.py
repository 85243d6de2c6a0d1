"""The node's settings. No other module reads the configuration file or settings from the environment.

Only OpenTelemetry's own variables, `OTEL_…`, are read by what exports to it (`observability/otel/export/settings.py`).

Settings are frozen. `load` reads config.toml, replaces `${NAME}` from the environment and checks every key and value.
It returns complete settings or raises; nothing is half applied. `resolve_paths` fills in this system's default paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo

from hearthnet.config_file import (
    OTLP_ENDPOINT,
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
    SECRET_SETTINGS,
    BusConfig,
    CommunityConfig,
    DiscoveryConfig,
    DoctorConfig,
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
from hearthnet.observability.redaction.rules import REDACTED, register_secrets

__all__ = [
    "Config",
    "DoctorConfig",
    "EmergencyConfig",
    "LlmBackend",
    "LlmConfig",
    "ObservabilityConfig",
    "TransportConfig",
    "as_toml",
    "default_config",
    "default_path",
    "facts_of",
    "from_tree",
    "known_secrets",
    "line_of",
    "load",
    "problems_of",
    "resolve_paths",
    "save",
    "table_of",
    "toml_value",
    "validate",
    "without_file",
]

M = TypeVar("M", bound=Section)


class _Origin:
    """The file that settings were read from. All origins compare equal: settings are compared by value alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Origin)

    def __hash__(self) -> int:
        return 0


class Config(Section):
    """All settings of a node."""

    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    identity: IdentityConfig = IdentityConfig()
    community: CommunityConfig = CommunityConfig()
    transport: TransportConfig = TransportConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    bus: BusConfig = BusConfig()
    llm: LlmConfig = LlmConfig()
    file: FileConfig = FileConfig()
    emergency: EmergencyConfig = EmergencyConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    doctor: DoctorConfig = DoctorConfig()

    @property
    def source(self) -> Path | None:
        """The file that these settings were read from; None for defaults and for settings made by a program."""
        return self._origin.path

    def read_from(self, path: Path) -> Config:
        """Returns a copy of these settings whose `source` is `path`."""
        copy = self.model_copy()
        copy._origin = _Origin(path.absolute())  # noqa: SLF001  # this class's own attribute
        return copy


def default_config() -> Config:
    """Returns the default settings; paths are empty until `resolve_paths`."""
    return Config()


def load(path: Path | None = None) -> Config:
    """Returns the settings in `path`, or in the default file; if that one is missing, the defaults.

    Registers the secrets in the environment and in the file for redaction.

    Raises:
        ConfigError: raised as `invalid_toml` if the file is not valid TOML or cannot be read, as `unreachable` if the
            folder of the default file may not be entered, as `invalid_field` for an unknown key, an invalid value, or
            a variable that is not set.
    """
    tree = read_tree(path)
    if tree is None:
        return without_file()
    source = default_path() if path is None else path
    config = from_tree(tree, source)
    register_secrets(known_secrets(config))
    return _with_environment(config).read_from(source)


def without_file() -> Config:
    """Returns the settings of a user who has no file: the defaults, and the environment.

    Registers the secrets in the environment for redaction.
    """
    register_secrets(known_secrets(default_config()))
    return _with_environment(default_config())


def from_tree(tree: dict[str, Any], source: Path) -> Config:
    """Returns the settings in the parsed tables of `source`, without what the environment overrides.

    Raises:
        ConfigError: raised as `invalid_field`, as by `load`.
    """
    try:
        config = Config.model_validate(expand(tree))
    except ValidationError as error:
        raise _invalid(error, source, tree) from error
    validate(config)
    return config


def problems_of(tree: dict[str, Any], source: Path) -> list[ConfigError]:
    """Returns an error for each invalid setting in the parsed tables of `source`; empty if they can be used."""
    try:
        validate(Config.model_validate(expand(tree)))
    except ValidationError as error:
        return [_error_of(problem, source, tree) for problem in error.errors(include_url=False)]
    except ConfigError as error:
        return [error]
    return []


def _with_environment(config: Config) -> Config:
    """Returns the settings with the one of OpenTelemetry that has a name in config.toml too: the environment wins."""
    endpoint = os.environ.get(OTLP_ENDPOINT, "").strip()
    if not endpoint:
        return config
    observability = config.observability.model_copy(update={"otlp_endpoint": endpoint})
    return config.model_copy(update={"observability": observability})


def known_secrets(config: Config) -> list[str]:
    """Returns this process's secrets: environment variables with a secret's name, backend keys and passwords."""
    backends = [(backend.url, backend.api_key_env) for backend in config.llm.backends]
    webhook, token = config.doctor.webhook, config.doctor.webhook_token_env
    return secrets_of([*backends, (config.observability.otlp_endpoint or "", None), (webhook or "", token)])


def _invalid(error: ValidationError, source: Path, tree: Any) -> ConfigError:
    """Returns an error that names section, key and value of the first problem, and counts the others."""
    problems = error.errors(include_url=False)
    return _error_of(problems[0], source, tree, f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _error_of(problem: Any, source: Path, tree: Any, more: str = "") -> ConfigError:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        text, hint = "no such setting", _known_keys(problem["loc"])
    else:
        text, hint = f"{_as_written(tree, problem)}: {problem['msg'].lower()}", None
    return ConfigError(
        "invalid_field",
        field=name,
        message=f"{source}: [{section_of(name)}] {key_of(name)}: {text}{more}",
        hint=hint,
    )


def _as_written(tree: Any, problem: Any) -> str:
    """Returns the value as written in the file; its expansion from the environment may be a secret."""
    if tuple(problem["loc"][:2]) in SECRET_SETTINGS:
        return REDACTED
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
    alike = get_close_matches(str(location[-1]), model.model_fields, 1)
    return f"{f'did you mean {alike[0]}? ' if alike else ''}known here: {', '.join(model.model_fields)}"


def validate(config: Config) -> None:
    """Checks settings that depend on each other.

    Raises:
        ConfigError: raised as `invalid_field`.
    """
    transport, discovery = config.transport, config.discovery
    if transport.port == discovery.udp_port:
        raise ConfigError(
            "invalid_field",
            field="transport.port",
            message=f"[transport] port: {transport.port} is also the port of [discovery] udp_port",
            hint="use two different ports",
        )
    if (transport.tls_cert is None) != (transport.tls_key is None):
        raise ConfigError(
            "invalid_field",
            field="transport.tls_cert",
            message="[transport] tls_cert and tls_key: one is set without the other",
            hint="set both, or neither",
        )


def resolve_paths(config: Config) -> Config:
    """Returns the settings with every empty path filled in and `~` expanded. Idempotent.

    Raises:
        ConfigError: raised as `path_resolution` when there is no home directory.
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
    """Writes the settings atomically, with comments and mode 0600, and returns the path.

    Raises:
        OSError: raised when the file cannot be written; the old file is then untouched.
    """
    target = default_path() if path is None else path
    replace_private(target, as_toml(config).encode())
    return target


def as_toml(config: Config) -> str:
    """Returns settings as TOML with comments: what each means, its unit, bounds and default, all from the models.

    A setting that has its default is commented out, so that a later version's default applies.
    """
    lines = [f"# {line}".rstrip() for line in _HEAD]
    for name in Config.model_fields:
        section: Section = getattr(config, name)
        lines += ["", f"# {_about(type(section), name)}", f"[{name}]"]
        values = section.model_dump(mode="json")
        for key, setting in type(section).model_fields.items():
            model = table_of(setting)
            own = setting.get_default(call_default_factory=True) == getattr(section, key)
            lines += ["", *_comment(key, setting)]
            if model is None:
                lines.append(line_of(key, setting, None if own else values[key]))
            else:
                lines += _tables(f"{name}.{key}", model, values[key])
    return "\n".join(lines) + "\n"


def _about(model: type[Section], name: str) -> str:
    about = (model.__doc__ or "").partition("\n")[0].removeprefix(f"`[{name}]`: ")
    return about[:1].upper() + about[1:]


def table_of(setting: FieldInfo) -> type[Section] | None:
    """Returns the model of a setting that is a list of tables; None for any other."""
    kinds = (kind for kind in get_args(setting.annotation) if isinstance(kind, type) and issubclass(kind, Section))
    return next(kinds, None)


def _tables(name: str, model: type[Section], tables: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the tables of a list, or one that is commented out, as an example."""
    for number, table in enumerate(tables):
        yield from ([""] if number else [])
        yield f"[[{name}]]"
        yield from (f"{key} = {toml_value(value)}" for key, value in table.items() if value is not None)
    if not tables:
        yield f"#[[{name}]]"
        for key, setting in model.model_fields.items():
            yield f"{line_of(key, setting, None)}  # {setting.description}"


def _comment(key: str, setting: FieldInfo) -> list[str]:
    about = setting.description or ""
    facts = facts_of(key, setting)
    if setting.default is not None and table_of(setting) is None:
        facts = f"{facts}; default: {toml_value(setting.default)}".removeprefix("; ")
    texts = (about[:1].upper() + about[1:], facts)
    lines = [wrap(text, _COMMENT_CHARS, break_long_words=False, break_on_hyphens=False) for text in texts]
    return [f"# {line}" for line in chain.from_iterable(lines)]


def facts_of(key: str, setting: FieldInfo) -> str:
    """Returns the unit of a setting, which the end of its name says, and what its value may be; empty: anything."""
    return ", ".join(_facts(key, setting))


def _facts(key: str, setting: FieldInfo) -> Iterator[str]:
    if (unit := _UNITS.get(key.rpartition("_")[2])) is not None:
        yield unit
    if get_origin(setting.annotation) is Literal:
        yield f"one of {', '.join(get_args(setting.annotation))}"
    for bound in setting.metadata:
        for name, words in _BOUNDS.items():
            if (limit := getattr(bound, name, None)) is not None:
                yield f"{words} {limit}"


def line_of(key: str, setting: FieldInfo, value: Any) -> str:
    """Returns the line that sets a value; None: the default, or an example of it, commented out."""
    if value is not None:
        return f"{key} = {toml_value(value)}"
    shown = setting.default if not (setting.is_required() or setting.default is None) else None
    if shown is None:
        shown = setting.examples[0] if setting.examples else ""
    return f"#{key} = {toml_value(shown)}"


def toml_value(value: Any) -> str:
    """Returns a value as TOML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml_value(str(key))} = {toml_value(item)}' for key, item in value.items())} }}"
    import tomli_w

    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


_HEAD: Final = (
    "Settings of this HearthNet node. To check them: hearthnet doctor --check config_file",
    "",
    "A line such as #port = 7080 shows a default: remove the # to set it. ${NAME} in a text is replaced from the",
    "environment. <DATA> and <LOG> are folders that `hearthnet paths` shows; chapters that are named here are those of",
    "docs/reference.md.",
)
_COMMENT_CHARS: Final = 110
_UNITS: Final = {"mb": "MB", "ms": "milliseconds", "s": "seconds", "bytes": "bytes"}
_BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "max_length": "at most"}
