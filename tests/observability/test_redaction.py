"""Redaction by key name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.observability import redaction


@pytest.mark.parametrize(
    "name",
    [
        "password", "Passwd", "db_password", "apiKey", "API-KEY", "x-api-key", "openai_api_key", "OPENAI_APIKEY",
        "authorization", "Proxy-Authorization", "cookie", "Set-Cookie", "access_token", "accessToken", "token",
        "refresh.token", "client_secret", "privateKey", "private_key", "signing_key", "aws_secret_access_key", "jwt",
        "credentials", "passphrase", "hf_token", "sessionKey", "id_token", "idToken", "apitoken", "refreshtoken",
        "secretkey", "apikeys", "db_pass", "passcode", "otp", "api_tokens", "sessionid", "access_token_ms",
    ],
)  # fmt: skip
def test_secret_names_are_secret(name):
    """However it is spelled, the name of a secret is known."""
    assert redaction.is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "tokens", "tokens_in", "max_tokens", "token_count", "tokens_per_second", "token_limit", "key", "keys",
        "monkey", "author", "capability", "secretary", "path", "pinned", "keyboard", "time_to_first_token", "token_id",
        "ms_per_token", "tokens_out", "compass", "passed", "trace_id", "session_id", "",
    ],
)  # fmt: skip
def test_plain_names_are_not(name):
    """What merely looks like a secret's name is recorded: counts of tokens above all."""
    assert not redaction.is_secret(name)


@given(st.text(max_size=400))
def test_any_name_gets_the_same_verdict_twice(name):
    """No name raises, and the remembered verdict is the first one."""
    assert redaction.is_secret(name) == redaction.is_secret(name)


def test_hostile_names_do_not_fill_the_memory():
    """The verdicts that are remembered are bounded."""
    for number in range(10_000):
        redaction.is_secret(f"name{number}")

    assert len(redaction._verdicts) <= redaction._MAX_REMEMBERED
