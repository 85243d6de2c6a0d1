"""What the settings and the environment add to redaction, from the file to the instruments."""

from __future__ import annotations

import inspect
import random
import string
import sys

import pytest

from hearthnet.config import Config, LlmBackend, LlmConfig, known_secrets, load
from hearthnet.errors import ConfigError
from hearthnet.identity.keys import KeyPair
from hearthnet.observability import telemetry
from hearthnet.observability.redaction import rules as redaction
from hearthnet.observability.redaction.rules import scrub

SECRET = "orchid-lantern-4471"


@pytest.fixture
def write(tmp_path):
    """Writes a config.toml and returns its path."""

    def write_text(text: str):
        path = tmp_path / "config.toml"
        path.write_text(text, "utf-8")
        return path

    return write_text


def test_environment_is_known_by_the_names_of_its_variables(monkeypatch):
    """A variable with a secret's name is secret, in the file or not; others are not."""
    monkeypatch.setenv("WEATHER_API_KEY", SECRET)
    monkeypatch.setenv("WEATHER_CITY", "garden-lantern-4472")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/ssh-abc123/agent.17")
    load()

    assert scrub(f"a {SECRET} b") == "a [redacted] b"
    assert scrub("a garden-lantern-4472 b") == "a garden-lantern-4472 b"
    assert scrub("a /tmp/ssh-abc123/agent.17 b") == "a /tmp/ssh-abc123/agent.17 b"


def test_variables_of_the_file_are_secret(write, monkeypatch):
    """What `${NAME}` brings in is not recorded, even where the settings then turn out wrong."""
    monkeypatch.setenv("WEATHER", SECRET)
    with pytest.raises(ConfigError):
        load(write('[observability]\notlp_endpoint = "http://x/${WEATHER}"\nlog_level = "loud"'))

    assert scrub(f"a {SECRET} b") == "a [redacted] b"


def test_keys_of_backends_are_secret(monkeypatch):
    """The variable that `api_key_env` names may have any name."""
    monkeypatch.setenv("WEATHER", SECRET)
    backends = (
        LlmBackend(name="hf_api", url="http://x", model="m", api_key_env="WEATHER"),
        LlmBackend(name="ollama", url="http://x", model="m", api_key_env="NOT_THERE"),
        LlmBackend(name="ollama", url="http://x", model="m"),
    )

    assert SECRET in known_secrets(Config(llm=LlmConfig(backends=backends)))
    assert SECRET not in known_secrets(Config())


def test_settings_reach_the_instruments(write, observability):
    """Names and patterns of the file are in force from the opening of telemetry on."""
    config = load(write('[observability]\nredact_keys = ["house code"]\nredact_patterns = ["HH-[0-9]{4}"]'))
    chosen = {"redact_keys": config.observability.redact_keys, "redact_patterns": config.observability.redact_patterns}
    assert chosen == {"redact_keys": ("house code",), "redact_patterns": ("HH-[0-9]{4}",)}
    with telemetry.open(observability.model_copy(update=chosen)):
        assert redaction.is_secret("houseCode")
        assert scrub("badge HH-1234") == "badge [redacted]"


@pytest.mark.parametrize(
    ("setting", "field", "said"),
    [
        ('redact_patterns = ["("]', "observability.redact_patterns.0", "no regular expression"),
        ('redact_patterns = ["ok", "a*"]', "observability.redact_patterns.1", "empty text"),
        ('redact_patterns = ["(a+)+b"]', "observability.redact_patterns.0", "repeat inside a repeat"),
        ('redact_patterns = ["((?:x|(y+)z)w){2,}"]', "observability.redact_patterns.0", "repeat inside a repeat"),
        ('redact_patterns = ["(a|b{2,})*c"]', "observability.redact_patterns.0", "repeat inside a repeat"),
        (f'redact_patterns = ["{"a" * 513}"]', "observability.redact_patterns.0", "512 characters"),
        (f"redact_patterns = {['x'] * 17}", "observability.redact_patterns", "at most 16"),
        ('redact_patterns = "x"', "observability.redact_patterns", "tuple"),
        ('redact_keys = ["x"]', "observability.redact_keys.0", "at least 2"),
        ('redact_keys = ["12345"]', "observability.redact_keys.0", "pattern"),
        ("redact_keys = [5]", "observability.redact_keys.0", "string"),
        ("redact = false", "observability.redact", "no such setting"),
    ],
)
def test_wrong_settings_are_refused(write, setting, field, said):
    """What cannot be, or could stop the node, is told with its place; and there is no switch to turn redaction off."""
    with pytest.raises(ConfigError, match=said) as caught:
        load(write(f"[observability]\n{setting}"))

    assert caught.value.field == field


@pytest.mark.parametrize("pattern", [r"(a++b)+", r"[(a+)]+x", r"\(a+\)+", r"(abc){1,3}", r"(?:ab|c)+d", r"HH-\d{4}"])
def test_harmless_patterns_are_accepted(write, pattern):
    """Possessive repeats, and what merely looks like a repeat of a repeat."""
    assert load(write(f"[observability]\nredact_patterns = ['{pattern}']")).observability.redact_patterns == (pattern,)


@pytest.mark.parametrize("start", ["", "x"])
@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a+)(b+)", ""), ("(a+){2}b", ""), ("(a)+(b)+", ""), ("((ab)c)+x", ""), ("(a?+)+b", ""), ("(a{2,3}+)+b", ""),
        ("(a|b?)+c", ""), ("(a{2})+c", ""), ("[]a+]+b", ""), ("[^]a+]+b", ""), ("((x+))y+", ""), ("((x+)y)z", ""),
        ("a" * 511, ""), ("a" * 513, "512 characters"), ("a{99999999999}", "too large"), ("a)", "unbalanced"),
        ("(a+b){2,}x", "repeat"), ("(?:(a+)b)+c", "repeat"), ("((a)+)+x", "repeat"), ("(a{,2})+c", "repeat"),
        (r"(\(a+)+b", "repeat"), ("x(a+y)*", "repeat"), ("b+(x+(?:y)z)+q", "repeat"), ("(?=a+)+b", "repeat"),
        ("(a+(b)*c)*d", "repeat"), ("(a(b)*c)*d", "repeat"), ("(a*b)+c", "repeat"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_pattern_is_checked(start, pattern, said):
    """Its length, what it repeats, at any depth, and whether it is one."""
    if not said:
        assert redaction.check_pattern(start + pattern) == start + pattern
        return
    with pytest.raises(ValueError, match=said):
        redaction.check_pattern(start + pattern)


def test_pattern_that_nests_too_deep_is_refused():
    """Where the stack is deep already."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        with pytest.raises(ValueError, match="no regular expression"):
            redaction.check_pattern("(" * 255 + "a" + ")" * 255)
    finally:
        sys.setrecursionlimit(limit)


def test_key_of_the_node_is_secret():
    """Its private half in every spelling; its public half, the node's id, is not."""
    keys = KeyPair.generate()
    redaction.register_secrets([keys.private_bytes])

    assert scrub(f"a {keys.private_bytes.hex()} b") == "a [redacted] b"
    assert scrub(keys.node_id) == keys.node_id


@pytest.mark.parametrize("first", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
def test_ids_of_nodes_are_no_tokens(first):
    """Whatever an id begins with: `25519:A…` has the look of a bot's token."""
    body = random.Random(first).choices(string.ascii_letters + string.digits + "-_", k=42)  # no secret
    node_id = f"ed25519:{first}{''.join(body)}"

    assert scrub(f"no route to {node_id}") == f"no route to {node_id}"
