"""Where each setting's value is from, and what of it is shown."""

from __future__ import annotations

import pytest

from hearthnet.config import default_path
from hearthnet.errors import ConfigError
from hearthnet.settings.origins import fields, known, read


def write(text):
    """Writes the standard file."""
    default_path().parent.mkdir(parents=True)
    default_path().write_text(text, "utf-8")


def setting(name):
    """One setting as it is shown."""
    return next(found for found in read(None).all if found.key == name)


def test_every_setting_is_shown_with_its_default():
    """Paths are those of this system."""
    found = read(None)

    assert not found.exists
    assert [one.key for one in found.all] == list(fields())
    assert {one.origin for one in found.all} == {"default"}
    assert str(setting("observability.data_dir").value).startswith("/")


def test_value_is_from_the_file_a_profile_or_the_environment(monkeypatch):
    """A variable that wins over the file is named, and so is one that the file refers to."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setenv("NODE_HOST", "127.0.0.1")
    write(
        '[observability]\neco = true\nslow_ms = 10\notlp_endpoint = "http://a:1"\n[transport]\nhost = "${NODE_HOST}"\n'
    )

    assert setting("observability.eco").source() == "file, as in profile spark"
    assert setting("observability.slow_ms").source() == "file"
    assert setting("observability.otlp_endpoint").source() == "environment, OTEL_EXPORTER_OTLP_ENDPOINT"
    assert setting("observability.otlp_endpoint").value == "http://localhost:4318"
    assert setting("transport.host").source() == "file, from NODE_HOST"


def test_secrets_are_not_shown(monkeypatch):
    """Neither those of the environment, nor passwords and paths of addresses."""
    monkeypatch.setenv("TOPIC", "https://ntfy.example.org/from-the-environment")
    write(
        '[[llm.backends]]\nname = "ollama"\nurl = "http://me:hunter2hunter2@127.0.0.1:1"\nmodel = "x"\n'
        'api_key_env = "HF"\n'
        '[doctor]\nwebhook = "${TOPIC}"\n[observability]\notlp_endpoint = "http://a:s3cret0815@b:1/x"\n'
    )
    shown = str([found.value for found in read(None).all])

    assert "hunter2" not in shown
    assert "s3cret" not in shown
    assert "from-the-environment" not in shown
    assert setting("doctor.webhook").value == "${TOPIC}"
    assert setting("llm.backends").value[0]["api_key_env"] == "HF"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ntfy.example.org/topic", "https://ntfy.example.org/[redacted]"),
        ("https://u:p@ntfy.example.org:8443/topic?auth=x", "https://ntfy.example.org:8443/[redacted]"),
        ("http://[::1]:80/topic", "http://[::1]:80/[redacted]"),
        ("http://[::1/topic", "[redacted]"),
        ("https://me:hunter2@ntfy.example.org/topic-key/${SUFFIX}", "https://ntfy.example.org/[redacted]"),
    ],
)
def test_webhook_is_shown_by_its_host(url, shown, monkeypatch):
    """Its path may be the key, beside a variable, too."""
    monkeypatch.setenv("SUFFIX", "end")
    write(f'[doctor]\nwebhook = "{url}"\n')

    assert setting("doctor.webhook").value == shown


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ('["tell", "--token", "abcdef0815", "home"]', ["tell", "--token", "[redacted]", "home"]),
        ('["curl", "-u", "me:hunter2hunter2", "https://x"]', ["curl", "-u", "me:[redacted]", "https://x"]),
        (
            '["curl", "-H", "Authorization: Bearer abcd1234efgh5678"]',
            ["curl", "-H", "Authorization: Bearer [redacted]"],
        ),
        ('["tell", "--password=${SECRET}"]', ["tell", "--password=${SECRET}"]),
        ('["tell", "${SECRET}", "home"]', ["tell", "${SECRET}", "home"]),
        ('["tell", "home"]', ["tell", "home"]),
    ],
)
def test_command_is_shown_without_its_secrets(command, shown, monkeypatch):
    """What is secret is said by the option before it; a variable is shown by its name."""
    monkeypatch.setenv("SECRET", "hunter2hunter2")
    write(f"[doctor]\ncommand = {command}\n")

    assert setting("doctor.command").value == shown


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("transport.prot", "transport.port"),
        ("port", "transport.port"),
        ("observability.disk_mb", "observability.max_disk_mb"),
        ("eco", "observability.eco"),
        ("qqqqqq", "hearthnet config show"),
    ],
)
def test_unknown_setting_suggests_the_nearest(name, hint):
    """Also by its last part."""
    with pytest.raises(ConfigError) as refused:
        known(name)

    assert hint in refused.value.hint
