"""The check of config.toml: unreadable, unknown settings, too open."""

from __future__ import annotations

import subprocess

import pytest

from hearthnet.checks.settings import unusable
from hearthnet.config import (
    Config,
    ObservabilityConfig,
    default_config,
    default_path,
    known_secrets,
    load,
    resolve_paths,
    save,
)
from hearthnet.errors import ConfigError
from hearthnet.observability import doctor

SECRET = "hunter22-canary"


@pytest.fixture
def look(home):
    """Writes config.toml and runs the check, by default with the settings from it."""

    def run(text: str, config=None, bus=None):
        path = default_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return doctor.run_one("config_file", resolve_paths(config or load()), bus)

    return run


def test_default_settings_pass(look, home):
    """No file, an empty one, and that of `init` pass."""
    absent = doctor.run_one("config_file", resolve_paths(load()))
    assert (absent.status, absent.detail) == ("pass", "no config.toml: the defaults apply")

    empty = look("")
    assert (empty.status, empty.detail, empty.fix) == ("pass", str(default_path()), None)
    save(default_config())
    assert doctor.run_one("config_file", resolve_paths(load())).status == "pass"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[transport]\nport = 7080\nhost = "0.0.0.0\n', 3, "is not valid TOML"),
        ("port = = 1", 1, "is not valid TOML"),
        ("[transport]\nport = 7080\n  prot = 7081\n", None, "[transport] prot: no such setting"),
        ('[[llm.backends]]\nname = "ollama"\nurl = "http://x"\nmodel = "m"\nkey = "k"\n', None, "no such setting"),
        ("[observability]\nmax_disk_mb = 1\n", None, "max_disk_mb: 1: "),
        ("[identity]\n[nonsense]\n", None, "nonsense: no such setting"),
        ('[transport]\nhost = "${NO_SUCH_VARIABLE_HERE}"\n', None, "the environment has no NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_file_that_is_no_settings_fails(look, text, line, words):
    """An invalid file is reported without settings; the fix opens it at the line of the TOML error."""
    result = look(text, default_config())

    assert (result.status, result.evidence["line"]) == ("fail", line)
    assert words in result.detail
    assert result.fix == f"${{EDITOR:-vi}}{'' if line is None else f' +{line}'} {default_path()}"


def test_unknown_key_is_reported_with_the_known_ones(look):
    """The error's hint is part of the finding."""
    assert "known here: host, port, tls_cert, tls_key" in look("[transport]\nprot = 1", default_config()).detail


def test_settings_of_another_file_are_checked(look, tmp_path):
    """The file of `--config` is checked, not the standard one, and must exist."""
    look("this is no TOML", default_config())
    path = tmp_path / "my settings.toml"
    path.write_text('[emergency]\nprobe_targets = ["http://a.b/"]')
    path.chmod(0o600)
    config = resolve_paths(load(path))
    result = doctor.run_one("config_file", config)
    assert (result.status, result.fix) == ("warn", f"${{EDITOR:-vi}} '{path}'")

    path.unlink()
    result = doctor.run_one("config_file", config)
    assert (result.status, result.fix) == ("fail", "make one with: hearthnet init")


def test_error_of_the_command_line_is_the_same_finding(look):
    """Without settings the finding is made from the error."""
    look("[transport]\nport = 'x'", default_config())
    with pytest.raises(ConfigError) as raised:
        load()

    assert unusable(raised.value, default_path()).evidence["field"] == "transport.port"


@pytest.mark.parametrize("mode", [0o620, 0o606])
def test_settings_that_others_may_change_fail(look, mode):
    """A file writable by others fails."""
    look("")
    default_path().chmod(mode)
    result = doctor.run_one("config_file", resolve_paths(load()))

    assert (result.status, result.fix) == ("fail", f"chmod 600 {default_path()}")
    subprocess.run(result.fix, shell=True, check=True)
    assert doctor.run_one("config_file", resolve_paths(load())).status == "pass"


BACKEND = '[[llm.backends]]\nname = "ollama"\nmodel = "m"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[emergency]\nprobe_targets = ["1.1.1.1", "http://a.b"]', "'http://a.b' is not a host"),
        ('[emergency]\nprobe_targets = ["a b"]', "'a b' is not a host"),
        ('[emergency]\nprobe_targets = ["a.b:99999"]', "'a.b:99999' is not a host"),
        ('[emergency]\nprobe_targets = ["[::1"]', "'[::1' is not a host"),
        (f'{BACKEND}url = "http://me:{SECRET}@a.b"', "url contains a key or password"),
        (f'{BACKEND}url = "http://a.b/?api_key={SECRET}"', "url contains a key or password"),
        (f'{BACKEND}url = "{SECRET}"', "url is not an http or https URL"),
        (f'{BACKEND}url = "http://a.b"\napi_key_env = "{SECRET}"', "api_key_env is not a variable name"),
        (f'[observability]\notlp_endpoint = "https://x:{SECRET}@a.b"', "otlp_endpoint contains a key or password"),
    ],
)
def test_what_is_hardly_meant_is_a_warning(look, text, words):
    """Doubtful settings are named; possible secrets are not quoted."""
    result = look(text)

    assert (result.status, result.ok) == ("warn", True)
    assert words in result.detail
    assert len(result.evidence["doubts"]) == 1
    assert SECRET not in repr(result)


def test_endpoint_of_the_environment_is_where_it_should_be(look, monkeypatch):
    """The file has no password to be moved; and it is known as a secret."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"https://x:{SECRET}@a.b")

    assert look("").status == "pass"
    assert SECRET in known_secrets(Config())
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    assert SECRET not in known_secrets(Config())
    assert SECRET in known_secrets(Config(observability=ObservabilityConfig(otlp_endpoint=f"https://x:{SECRET}@a.b")))


@pytest.mark.parametrize("target", ["1.1.1.1", "quad9.net", "router.lan:8080", "[::1]:80", "box", "a.b."])
def test_hosts_are_hosts(look, target):
    """Hosts with and without port, by name or address, are valid."""
    assert look(f'[emergency]\nprobe_targets = ["{target}"]').status == "pass"


def test_settings_that_changed_since_the_node_read_them(look, node):
    """Settings changed since the node started are a warning; from disk there is no difference."""
    _, bus = node
    look("[observability]\nslow_ms = 100.0")
    running = resolve_paths(load())
    assert look("[observability]\nslow_ms = 100.0", running, bus).status == "pass"
    assert look('[observability]\nslow_ms = 100.0\nlog_level = "debug"', running, bus).status == "pass"

    changed = look("[observability]\nslow_ms = 200.0\n[bus]\nprefer_local = false", running, bus)
    assert (changed.status, changed.evidence["changed"]) == ("warn", ["bus", "observability"])
    assert "[bus], [observability] changed since the node started" in changed.detail
    assert look("[observability]\nslow_ms = 200.0", running, None).status == "pass"
