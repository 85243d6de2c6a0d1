"""Decides, by the name of a key, whether its value is a secret.

Names are split into words (`apiKey`, `API-KEY` and `api_key` are the same two), and the verdict is remembered for
each name, so that the caller's path pays one dictionary look-up a key. Counts of tokens are no secrets: a node that
serves language models speaks of `tokens_in` and `max_tokens` all day.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

__all__ = ["REDACTED", "is_secret"]

REDACTED: Final = "[redacted]"

_SECRET_WORDS: Final = frozenset({
    "auth", "authorization", "bearer", "cookie", "cookies", "credential", "credentials", "jwt", "mnemonic", "otp",
    "pass", "passcode", "passphrase", "passwd", "password", "passwords", "pin", "privkey", "pwd", "secret", "secrets",
    "token",
})  # fmt: skip
_SECRET_PAIRS: Final = frozenset({
    (owner, key)
    for owner in ("access", "api", "auth", "encryption", "private", "root", "secret", "session", "signing", "ssh")
    for key in ("key", "keys")
} | {(owner, "tokens") for owner in ("access", "api", "auth", "bearer", "id", "refresh", "session")})  # fmt: skip
_SECRET_ENDINGS: Final = (
    "accesskey", "apikey", "apikeys", "authheader", "passwd", "password", "passwords", "privatekey", "privkey",
    "secret", "secretkey", "sessionid", "accesstoken", "apitoken", "authtoken", "idtoken", "refreshtoken",
    "sessiontoken",
)  # fmt: skip
# What is said about the tokens of a language model, word for word; any other name with `token` in it is a secret's.
_TOKEN_MEASURES: Final = re.compile(
    r"(?:max_|first_)?token_(?:budget|count|id|index|limit|ms|rate|total|type|usage)|(?:per|next|last|first)_token(?:_ms)?"
    r"|(?:ms|time|seconds)_(?:per|to_first)_token"
)

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MAX_REMEMBERED: Final = 4_096  # far more names than a program has; hostile ones must not grow it for ever
_verdicts: dict[str, bool] = {}


def is_secret(name: str) -> bool:
    """Tells whether a value under this key must not be recorded."""
    verdict = _verdicts.get(name)
    if verdict is None:
        if len(_verdicts) >= _MAX_REMEMBERED:
            _verdicts.clear()
        verdict = _verdicts[name] = _judge(name)
    return verdict


def _judge(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if "".join(words).endswith(_SECRET_ENDINGS) and words != ["session", "id"]:
        return True
    if not _SECRET_PAIRS.isdisjoint(pairwise(words)):
        return True
    found = _SECRET_WORDS.intersection(words)
    if found == {"token"}:
        return _TOKEN_MEASURES.fullmatch("_".join(words)) is None
    return bool(found)
