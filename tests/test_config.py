"""Settings: defaults, loading, validation, path resolution, and saving."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hearthnet.config import (
    Config,
    EmergencyConfig,
    LlmBackend,
    LlmConfig,
    TransportConfig,
    as_toml,
    default_config,
    facts_of,
    load,
    resolve_paths,
    save,
    validate,
)
from hearthnet.errors import ConfigError

DEFAULTS = {
    "identity": {"keys_dir": None, "auto_generate": True},
    "community": {"community_id": None, "state_dir": None},
    "transport": {"host": "0.0.0.0", "port": 7080, "tls_cert": None, "tls_key": None},
    "discovery": {
        "mdns_enabled": True,
        "udp_enabled": True,
        "udp_multicast_group": "239.255.42.42",
        "udp_port": 42424,
    },
    "bus": {"prefer_local": True, "local_load_threshold": 0.8},
    "llm": {"backends": ()},
    "file": {"blobs_dir": None, "gc_threshold": 0.8},
    "emergency": {"enabled": False, "probe_targets": ("1.1.1.1", "8.8.8.8", "cloudflare.com", "quad9.net")},
    "observability": {
        "log_level": "info",
        "log_dir": None,
        "data_dir": None,
        "metrics_enabled": True,
        "otlp_endpoint": None,
        "flush_interval_s": 1.0,
        "max_disk_mb": 256,
    },
    "doctor": {"webhook": None, "command": (), "mail": None, "notify_level": "fail"},
}

# TOML, the invalid field, and text that the message must contain.
BAD_VALUES = [
    ('[transport]\nport = "many"', "transport.port", "'many'"),
    ("[transport]\nport = 0", "transport.port", "0"),
    ("[transport]\nport = 65536", "transport.port", "65536"),
    ("[transport]\nport = true", "transport.port", "True"),
    ("[transport]\nhost = 5", "transport.host", "5"),
    ("[bus]\nlocal_load_threshold = 1.5", "bus.local_load_threshold", "1.5"),
    ('[bus]\nprefer_local = "maybe"', "bus.prefer_local", "'maybe'"),
    ("[file]\ngc_threshold = -0.1", "file.gc_threshold", "-0.1"),
    ('[observability]\nlog_level = "loud"', "observability.log_level", "'loud'"),
    ("[observability]\nflush_interval_s = nan", "observability.flush_interval_s", "nan"),
    ("[observability]\nflush_interval_s = 0.0", "observability.flush_interval_s", "0.0"),
    ("[observability]\nmax_disk_mb = 1", "observability.max_disk_mb", "1"),
    ("[observability]\nslow_ms = -1", "observability.slow_ms", "-1"),
    ('[emergency]\nprobe_targets = "1.1.1.1"', "emergency.probe_targets", "'1.1.1.1'"),
]


@pytest.fixture
def write(tmp_path):
    """Writes a config.toml and returns its path."""

    def write_text(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, "utf-8")
        return path

    return write_text


def refusal(path: Path | None = None) -> ConfigError:
    """Returns the error raised for the settings in `path`."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value


@pytest.mark.parametrize("section", DEFAULTS)
def test_defaults_are_those_of_the_spec(section):
    """Each section has the documented defaults."""
    actual = getattr(default_config(), section).model_dump()

    assert {name: actual[name] for name in DEFAULTS[section]} == DEFAULTS[section]


def test_sections_are_those_of_the_spec():
    """There are exactly the documented sections, and that of what the doctor notifies."""
    assert set(Config.model_fields) == set(DEFAULTS)


def test_missing_file_at_the_standard_place_means_the_defaults():
    """Without a configuration file the defaults apply."""
    assert load() == default_config()


def test_missing_file_that_was_named_is_refused(tmp_path):
    """A path given explicitly must exist; the hint says how to create the file."""
    error = refusal(tmp_path / "nowhere.toml")

    assert error.code == "invalid_toml"
    assert "nowhere.toml" in error.message
    assert "hearthnet init" in error.hint


def test_empty_file_means_the_defaults(write):
    """An empty file changes nothing."""
    assert load(write("")) == default_config()


def test_named_settings_change_and_the_others_stay(write):
    """A file needs only the settings that differ."""
    config = load(write('[transport]\nport = 9000\n[observability]\nlog_level = "debug"\n'))

    assert (config.transport.port, config.observability.log_level) == (9000, "debug")
    assert config.discovery == default_config().discovery


def full() -> Config:
    """Settings that differ from the defaults in every type of value."""
    return default_config().model_copy(
        update={
            "transport": TransportConfig(host="127.0.0.1", port=9000, tls_cert=Path("/c.pem"), tls_key=Path("/k.pem")),
            "llm": LlmConfig(
                backends=(
                    LlmBackend(name="ollama", url="http://localhost:11434", model="tiny"),
                    LlmBackend(name="hf_api", url="https://hf.example", model="big", api_key_env="HF_TOKEN"),
                )
            ),
            "emergency": EmergencyConfig(enabled=True, probe_targets=()),
        }
    )


@pytest.mark.parametrize("config", [default_config(), full()], ids=["defaults", "full"])
def test_save_and_load_round_trip(tmp_path, config):
    """Saved settings are loaded unchanged."""
    assert load(save(config, tmp_path / "config.toml")) == config


def comments(text: str) -> dict[str, tuple[str, str]]:
    """Returns the comment above each setting of a file, as one line, and the setting's own line."""
    found, section = {}, ""
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[-1].startswith("["):
            section = lines[-1].strip("[]")
        elif match := re.match(r"#?(\w+) = |#?\[\[llm\.(backends)\]\]", own := first_setting(lines)):
            above = [line[2:] for line in lines[: lines.index(own)]]
            found.setdefault(f"{section}.{match[1] or match[2]}", (" ".join(above), own))
    return found


def first_setting(lines: list[str]) -> str:
    """Returns the first line that is no comment in words: a setting, maybe commented out."""
    return next((line for line in lines if not line.startswith("# ") and line != "#"), "")


@pytest.mark.parametrize("config", [default_config(), full()], ids=["defaults", "full"])
def test_saved_file_explains_every_setting(config):
    """Each has its meaning, unit, bounds and default, as the models have them; values that are defaults do nothing."""
    written = comments(as_toml(config))

    assert set(written) == {f"{name}.{key}" for name, values in DEFAULTS_OF_ALL.items() for key in values}
    for name, (comment, line) in written.items():
        section, key = name.split(".")
        setting = getattr(Config(), section).__class__.model_fields[key]
        assert setting.description
        assert comment.lower().startswith(setting.description.lower())
        rest = comment[len(setting.description) :]
        default = DEFAULTS_OF_ALL[section][key]
        if default not in (None, ()):
            assert tomllib.loads(f"x = {rest.partition('default: ')[2]}")["x"] == (
                list(default) if isinstance(default, tuple) else default
            )
        assert facts_of(key, setting) in rest
        assert line.startswith("#") == (getattr(getattr(config, section), key) == default)


DEFAULTS_OF_ALL = default_config().model_dump()


def test_facts_of_a_setting_are_in_words():
    """Its unit by the end of its name, and its bounds."""
    fields = type(default_config().observability).model_fields

    assert facts_of("max_disk_mb", fields["max_disk_mb"]) == "MB, at least 64"
    assert facts_of("slow_ms", fields["slow_ms"]) == "milliseconds, more than 0"
    assert facts_of("log_level", fields["log_level"]) == "one of debug, info, warning, error, critical"
    assert facts_of("eco", fields["eco"]) == ""


def test_what_is_commented_out_can_be_used(write):
    """Without its #, each line is valid; those of defaults then change nothing."""
    text = re.sub(r"(?m)^#(?=\w|\[)", "", as_toml(default_config()))
    config = load(write(text))

    examples = {"community": {"community_id": "ed25519:…"}, "observability": {"otlp_endpoint": "http://localhost:4318"}}
    examples["doctor"] = {
        "webhook": "https://ntfy.example.org/my-topic", "webhook_token_env": "NTFY_TOKEN", "mail": "me@example.org",
    }  # fmt: skip
    (backend,) = config.llm.backends
    assert backend.api_key_env == "HF_TOKEN"
    assert config.model_copy(update={"llm": LlmConfig()}) == default_config().model_copy(
        update={name: getattr(default_config(), name).model_copy(update=values) for name, values in examples.items()}
    )


def test_resolved_settings_round_trip(tmp_path):
    """Resolved paths are saved and loaded as well."""
    config = resolve_paths(default_config())

    assert load(save(config, tmp_path / "config.toml")) == config


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    host=st.text(st.characters(codec="utf-8", exclude_characters="$")),
    port=st.integers(1, 42_423),
    threshold=st.floats(0, 1),
)
def test_any_text_and_number_survives_the_file(tmp_path, host, port, threshold):
    """Quotes, line ends and control characters in values are preserved."""
    base = default_config()
    config = base.model_copy(
        update={
            "transport": base.transport.model_copy(update={"host": host, "port": port}),
            "bus": base.bus.model_copy(update={"local_load_threshold": threshold}),
        }
    )

    assert load(save(config, tmp_path / "config.toml")) == config


def test_save_without_a_path_is_what_load_reads():
    """Without a path `save` writes the file that `load` reads."""
    config = full()
    path = save(config)

    assert path.name == "config.toml"
    assert load() == config


def test_saved_file_is_private(tmp_path):
    """The file has mode 0600, and a folder created for it 0700."""
    path = save(default_config(), tmp_path / "new" / "config.toml")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """If the file cannot be replaced, the old one is intact and no temporary file is left."""
    path = save(full(), tmp_path / "config.toml")
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="no"):
            save(default_config(), path)

    assert path.read_bytes() == before
    assert list(tmp_path.glob("*config.toml*")) == [path]


def test_variables_are_replaced_from_the_environment(write, monkeypatch):
    """`${NAME}` in any string, whole or in part, in lists and tables too."""
    monkeypatch.setenv("PLACE", "/srv/node")
    monkeypatch.setenv("PORT", "9100")
    text = (
        '[transport]\nport = "${PORT}"\n[observability]\ndata_dir = "${PLACE}/data"\n'
        '[emergency]\nprobe_targets = ["a", "${PORT}"]\n'
        '[[llm.backends]]\nname = "ollama"\nurl = "http://x:${PORT}${PLACE}"\nmodel = "m"\n'
    )
    config = load(write(text))

    assert config.transport.port == 9100
    assert config.observability.data_dir == Path("/srv/node/data")
    assert config.emergency.probe_targets == ("a", "9100")
    assert config.llm.backends[0].url == "http://x:9100/srv/node"


def test_values_from_the_environment_are_not_expanded_again(write, monkeypatch):
    """`${NAME}` inside a variable's value is not expanded again."""
    monkeypatch.setenv("OUTER", "${INNER}")
    monkeypatch.setenv("INNER", "no")

    assert load(write('[transport]\nhost = "${OUTER}"')).transport.host == "${INNER}"


@pytest.mark.parametrize("text", ["$NAME", "${}", "${1A}", "$ {NAME}", "${NAME"])
def test_what_is_no_variable_stays(write, text):
    """Only `${NAME}` refers to a variable."""
    assert load(write(f"[transport]\nhost = '{text}'")).transport.host == text


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('[transport]\nhost = "${ABSENT}"', "transport.host"),
        ('[emergency]\nprobe_targets = ["${ABSENT}"]', "emergency.probe_targets"),
    ],
)
def test_missing_variable_is_refused(write, monkeypatch, text, field):
    """A variable that is not set is an error that names section, key and variable, never an empty string."""
    monkeypatch.delenv("ABSENT", raising=False)
    error = refusal(write(text))

    section, key = field.split(".")
    assert (error.code, error.field) == ("invalid_field", field)
    assert all(part in error.message for part in (f"[{section}]", key, "ABSENT"))
    assert "ABSENT" in error.hint


@pytest.mark.parametrize(
    ("text", "field", "known"),
    [
        ("[transport]\nprot = 7080", "transport.prot", "port"),
        ("[transprot]\nport = 7080", "transprot", "transport"),
        (
            '[[llm.backends]]\nname = "ollama"\nurl = "u"\nmodel = "m"\nkey = "k"',
            "llm.backends.0.key",
            "api_key_env",
        ),
    ],
    ids=["key", "section", "backend"],
)
def test_unknown_key_is_refused(write, text, field, known):
    """An unknown key or section is an error; the hint lists the known ones."""
    error = refusal(write(text))

    assert (error.code, error.field) == ("invalid_field", field)
    assert field.rpartition(".")[2] in error.message
    assert known in error.hint


@pytest.mark.parametrize(("text", "field", "value"), BAD_VALUES, ids=[case[0].split("\n")[1] for case in BAD_VALUES])
def test_bad_value_is_refused(write, text, field, value):
    """The error names file, section, key and the value."""
    path = write(text)
    error = refusal(path)

    section, key = field.split(".")
    assert (error.code, error.field) == ("invalid_field", field)
    assert all(part in error.message for part in (str(path), f"[{section}]", key, value))


@pytest.mark.parametrize("name", ["gpt", "", "Ollama"])
def test_unknown_language_model_backend_is_refused(write, name):
    """Only the five known backends may be named."""
    error = refusal(write(f'[[llm.backends]]\nname = "{name}"\nurl = "u"\nmodel = "m"'))

    assert error.field == "llm.backends.0.name"


def test_several_problems_are_counted(write):
    """The first problem is named, the others are counted."""
    error = refusal(write("[transport]\nport = 0\nhost = 5"))

    assert error.field == "transport.host" or error.field == "transport.port"
    assert "1 more" in error.message


@pytest.mark.parametrize("text", ["[transport", "port = ", "a = 1\na = 2", "= 3", "[transport]\nhost = 'a\nb'"])
def test_invalid_toml_is_refused(write, text):
    """The error for invalid TOML has the path and the parser's line."""
    path = write(text)
    error = refusal(path)

    assert (error.code, error.field) == ("invalid_toml", None)
    assert str(path) in error.message
    assert "line" in error.message or "end of document" in error.message


def test_file_that_is_not_utf8_is_refused(tmp_path):
    """A file that is not UTF-8 is an error."""
    path = tmp_path / "config.toml"
    path.write_bytes(b'[transport]\nhost = "\xff"')

    assert refusal(path).code == "invalid_toml"


def test_folder_in_the_place_of_the_file_is_refused(tmp_path):
    """A file that cannot be read is a configuration error."""
    assert refusal(tmp_path).code == "invalid_toml"


@pytest.mark.parametrize("text", ["transport = 5", 'transport = "x"', "[[transport]]\nport = 1"])
def test_section_that_is_no_table_is_refused(write, text):
    """A section must be a table."""
    assert refusal(write(text)).field == "transport"


def test_settings_are_frozen():
    """Neither a section nor a value in it can be set."""
    config = default_config()

    with pytest.raises(ValidationError, match="frozen"):
        config.transport = TransportConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.transport.port = 1
    assert isinstance(config.emergency.probe_targets, tuple)


def test_transport_and_discovery_need_different_ports(write):
    """One port cannot serve both; the error names both settings."""
    error = refusal(write("[transport]\nport = 42424"))

    assert (error.code, error.field) == ("invalid_field", "transport.port")
    assert all(part in error.message for part in ("42424", "[transport]", "udp_port"))
    assert error.hint


@pytest.mark.parametrize("key", ["tls_cert", "tls_key"])
def test_half_of_a_tls_pair_is_refused(key):
    """A certificate without its key, or the reverse, is an error."""
    config = default_config()
    half = config.transport.model_copy(update={key: Path("/x.pem")})

    with pytest.raises(ConfigError) as caught:
        validate(config.model_copy(update={"transport": half}))
    assert caught.value.code == "invalid_field"


@pytest.mark.parametrize("config", [default_config(), full()], ids=["defaults", "full"])
def test_good_settings_are_valid(config):
    """Valid settings pass."""
    assert validate(config) is None


def test_resolved_paths_are_the_standard_ones(home):
    """Every empty path is filled in, below the user's home folder."""
    config = resolve_paths(default_config())
    data = config.observability.data_dir

    assert data.name == "hearthnet"
    assert data.is_relative_to(home)
    assert config.identity.keys_dir == data / "keys"
    assert config.community.state_dir == data / "communities"
    assert config.file.blobs_dir == data / "blobs"
    assert config.observability.log_dir.is_relative_to(home)


def test_resolving_twice_changes_nothing():
    """`resolve_paths` is idempotent."""
    once = resolve_paths(default_config())

    assert resolve_paths(once) == once


def test_resolving_leaves_no_files(home):
    """Resolving paths creates no folders."""
    resolve_paths(default_config())

    assert list(home.iterdir()) == []


def test_paths_that_were_given_stay(write, tmp_path):
    """A configured path is kept, the others are filled in."""
    config = resolve_paths(load(write(f'[observability]\nlog_dir = "{tmp_path}/mine"')))

    assert config.observability.log_dir == tmp_path / "mine"
    assert config.observability.data_dir.name == "hearthnet"


def test_empty_text_is_an_empty_path(write):
    """`log_dir = ""` means the default folder, not the working directory."""
    config = resolve_paths(load(write('[observability]\nlog_dir = ""\n[identity]\nkeys_dir = ""')))
    standard = resolve_paths(default_config())

    assert config.observability.log_dir == standard.observability.log_dir
    assert config.identity.keys_dir == standard.identity.keys_dir


def test_tilde_is_expanded_in_every_path(write, home):
    """`~` is the home directory in each section that has paths."""
    text = (
        '[observability]\ndata_dir = "~/data"\n[file]\nblobs_dir = "~/blobs"\n'
        '[transport]\ntls_cert = "~/cert.pem"\ntls_key = "~/key.pem"\n'
    )
    config = resolve_paths(load(write(text)))

    assert config.observability.data_dir == home / "data"
    assert config.file.blobs_dir == home / "blobs"
    assert (config.transport.tls_cert, config.transport.tls_key) == (home / "cert.pem", home / "key.pem")


def test_relative_paths_become_absolute(write, tmp_path, monkeypatch):
    """Resolved paths do not depend on the working directory."""
    monkeypatch.chdir(tmp_path)
    config = resolve_paths(load(write('[observability]\ndata_dir = "data"')))

    assert config.observability.data_dir == tmp_path / "data"


def test_home_that_cannot_be_found_is_an_error(write):
    """A missing home directory is a `path_resolution` error."""
    config = load(write('[observability]\ndata_dir = "~nobody-has-this-name/data"'))

    with pytest.raises(ConfigError) as caught:
        resolve_paths(config)
    assert caught.value.code == "path_resolution"
    assert caught.value.hint


def test_config_error_without_message_shows_its_code():
    """An error always has a message."""
    error = ConfigError("invalid_field", field="a.b")

    assert (str(error), error.field, error.hint, error.exit_code) == ("invalid_field", "a.b", None, 1)


@pytest.mark.parametrize(("variable", "endpoint"), [("http://env:4318", "http://env:4318"), ("", "http://file:4318")])
def test_endpoint_of_the_environment_wins_over_the_file(write, monkeypatch, variable, endpoint):
    """The standard variable of OpenTelemetry; an empty one counts as not set. `init` does not write it down."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", variable)
    file = write('[observability]\notlp_endpoint = "http://file:4318"')

    assert load(file).observability.otlp_endpoint == endpoint
    assert load(file).source == file
    assert load().observability.otlp_endpoint == (variable or None)
    assert default_config().observability.otlp_endpoint is None
