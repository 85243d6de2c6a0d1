"""Secrets behind a name without a sign in between: each case has its secret in `«»`, if there is one."""

from __future__ import annotations

import re

import pytest

from hearthnet.observability.redaction.rules import REDACTED, scrub

_SECRET = re.compile(r"«(.*?)»")
SETTINGS = [
    f"machine h login bob{' ' * 62}password «swordfish»", f"machine h login bob{' ' * 63}password swordfish",
    r"login bob\npassword\n«swordfish»", "login bob password", "enable password «S3cr»", "enable password 7 «S3cr»",
    "username bob password «abc1»", "username bob password word", "mysqladmin -u x password «S3c»",
    "mysqladmin -u x password S3",
]  # fmt: skip
VARIABLES = [
    "x_token 12345678901", "x_token «123456789012»", "stripe_key 123456789012", "db_password «12345678»",
    "db_password swordfish-of-it", "client_secret a1", "client_secret «1a345678»", "x_secret «abcdefgh1»",
    "x_token abcdefgh-12",
    'x_token is "«a1b2c3d4e5f6»"', "X_token «a!73sn#0cd»", "max_token «a!73sn#0cdAE+4$(yZsR»", "x_token (a1b2c3d4e5)",
    "x_token «-a1b2c3d4e5f6g7»", "x_token getElementsByName(a1)", "x_token a1b2,c3d4e5 on", "x_token «rcXiQiiuR%» on",
    "x_token «OYLkdy==9» on", "x_token «a1!b2C3!d4E5» on", f"x_token {'the-7-' * 43}aB3$q on",
    f"x_token «{'the-7-' * 41}aB3$q» on", f"{'x' * 90}_token «a1b2c3d4e5»",
]  # fmt: skip
WORDS = [
    "token abcd1234efgh", "token «a1b2c3d4e5f6g7h8i9j0»", "my token is «a1b2c3d4e5f6g7h8i9j0»",
    "token a!73sn#0cdAE+4$(yZsR", "the key a1b2c3d4e5f6g7h8", "with stripe key «a1b2c3d4e5f6»",
    "with stripe key is «a1b2c3d4e5f6»", "api key is '«a1b2c3d4e5f6»'", "my api  key   is   `«a1b2c3d4e5f6»` now",
]  # fmt: skip


@pytest.mark.parametrize("case", [*SETTINGS, *VARIABLES, *WORDS], ids=lambda case: case[:40])
def test_value_without_a_sign_is_judged_by_its_name_and_its_form(case):
    """Of a variable more is a secret than of a word; of a setting, whatever follows."""
    assert scrub(_SECRET.sub(r"\1", case)) == _SECRET.sub(REDACTED, case)
