"""Secrets as they stand in real records: where each stands, what is recorded, and what of it must appear nowhere.

    for case in PLANTED:
        log.info("planted", extra=case.fields)        or, where it stands in a text, case.text

The secrets are made up. `REGISTERED` are those that only registering can tell: give them to `register_secrets` first.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple
from urllib.parse import quote

__all__ = ["PLANTED", "REGISTERED", "TEXTS", "Planted"]


class Planted(NamedTuple):
    """A secret in its place; `kept` is what the record must still say."""

    description: str
    secret: str
    text: str = ""
    fields: dict[str, Any] = {}  # noqa: RUF012  # a default of a named tuple, never changed
    kept: str = ""


REGISTERED = ("Tr0ub4dor&3/zeta", 'pa"ss\\wörd-17', "orchid-lantern-4471", "c2VjcmV0LWtleS1mb3ItdGVzdHM")
_AMPERSAND, _ODD, _PLAIN, _KEY = REGISTERED

_BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
_PEM = f"-----BEGIN PRIVATE KEY-----\n{_BODY}\nMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3S\n-----END PRIVATE KEY-----"
_JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
_BASIC = base64.b64encode(b"marple:h4zel-nut").decode()

TEXTS = (
    Planted(
        "bearer header line", "mF_9.B5f-4.1JqM", "Authorization: Bearer mF_9.B5f-4.1JqM", kept="Authorization: Bearer"
    ),
    Planted("bearer, bare", "mF9B5f41JqMabcdef", "sent Bearer mF9B5f41JqMabcdef to the host", kept="to the host"),
    Planted("bearer, lower case", "mF9B5f41JqMabcdef", "header bearer mF9B5f41JqMabcdef refused", kept="refused"),
    Planted("bearer, a word", "swordfish", "Authorization: Bearer swordfish", kept="Bearer"),
    Planted("basic header line", _BASIC, f"authorization: Basic {_BASIC}", kept="Basic"),
    Planted("basic, bare", _BASIC, f"tried Basic {_BASIC} first", kept="first"),
    Planted("digest", "6629fae49393a053", 'Authorization: Digest username="Mufasa", response="6629fae49393a053"'),
    Planted("authorization without scheme", "a81b7c02", "Authorization: a81b7c02"),
    Planted("password in a URL", "s3cr3tpw", "redis://cache:s3cr3tpw@10.0.0.5:6379/0", kept="@10.0.0.5:6379/0"),
    Planted("password in a URL, no user", "s3cr3tpw", "redis://:s3cr3tpw@cache/0", kept="@cache/0"),
    Planted("password with an at sign", "p@ss1w0rd", "postgres://u:p@ss1w0rd@db/x", kept="postgres://u:"),
    Planted("token as the user of a URL", "0a1b2c3d4e5f60718293", "https://0a1b2c3d4e5f60718293@errors.example/7"),
    Planted("query parameter", "k3y-value-9", "GET /v1/x?api_key=k3y-value-9&x=1 gave 401", kept="&x=1 gave 401"),
    Planted("query parameter, first of two", "abcd", "https://h/p?token=abcd&password=efgh", kept="https://h/p?token="),
    Planted("query parameter, second of two", "efgh", "https://h/p?token=abcd&password=efgh"),
    Planted("form", "hunter2", "user=bob&password=hunter2&next=%2F", kept="&next=%2F"),
    Planted("key=value", "hunter2", "login failed password=hunter2 user=bob", kept="user=bob"),
    Planted("key=value, a word", "swordfish", "login failed: password=swordfish, user=bob", kept="user=bob"),
    Planted("key: value", "hunter2", "password: hunter2"),
    Planted("key: value, a word, and more", "swordfish", "db password: swordfish for user bob"),
    Planted("connection string", "x;Y9z", "Server=db;Password=x;Y9z;Database=main", kept="Database=main"),
    Planted("JSON in a text", "sk_value_1", '{"user":"bob","apiKey":"sk_value_1","n":1}', kept='"n":1'),
    Planted("JSON with an escaped quote", 'ab\\"cd99', '{"password": "ab\\"cd99", "n": 1}', kept='"n": 1'),
    Planted(
        "JSON inside JSON", "zz-99-yy", json.dumps({"b": json.dumps({"client_secret": "zz-99-yy", "n": 1})}), kept="n"
    ),
    Planted("JSON, a number", "48213377", '{"pin": 48213377}'),
    Planted("JSON, nested", "deep-value-1", '{"credentials": {"user": {"id": "deep-value-1"}}, "n": 1}', kept='"n": 1'),
    Planted("repr of a dictionary", "hunter2", "{'user': 'bob', 'password': 'hunter2'}", kept="bob"),
    Planted("repr of bytes", "hunter22", "body was b'user=bob&password=hunter22'", kept="user=bob"),
    Planted("truncated JSON", "halfasecret1", '{"user": "bob", "token": "halfasecret1', kept="bob"),
    Planted("environment dump", "abc123def456", "HOME=/root\nOPENAI_API_KEY=abc123def456\nLANG=C", kept="LANG=C"),
    Planted("option", "hunter2x", "ran: tool --password hunter2x --verbose", kept="--verbose"),
    Planted("option with =", "t0kenvalue", "ran: tool --auth-token=t0kenvalue --verbose", kept="--verbose"),
    Planted("passphrase of words", "correct horse battery", "passphrase: correct horse battery staple"),
    Planted("mnemonic", "legal winner thank", "mnemonic=legal winner thank year wave sausage"),
    Planted("cookie", "s%3Aabc.def", "Cookie: sid=s%3Aabc.def; theme=dark"),
    Planted("set-cookie", "31d4d96e407aad42", "Set-Cookie: SID=31d4d96e407aad42; Path=/; Secure"),
    Planted(
        "headers as pairs",
        "swordfish",
        "[(b'host', b'h'), (b'authorization', b'Bearer swordfish')]",
        kept="b'host', b'h'",
    ),
    Planted("pairs", "hunter2", "sent [('user', 'bob'), ('password', 'hunter2')]", kept="'bob'"),
    Planted("PEM", _BODY, f"key was {_PEM} in the file", kept="in the file"),
    Planted("PEM, escaped", _BODY, json.dumps({"note": _PEM}), kept="note"),
    Planted("PEM, cut", _BODY, f"-----BEGIN RSA PRIVATE KEY-----\n{_BODY}", kept="BEGIN RSA PRIVATE KEY"),
    Planted(
        "OpenSSH key", "b3BlbnNzaC1rZXktdjEAAAAA", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n"
    ),
    Planted("JWT", _JWT[3:], f"id {_JWT} was refused", kept="was refused"),
    Planted("JWT, cut", "NiJ9.eyJzdWIi", "id eyJhbGciOiJIUzI1NiJ9.eyJzdWIi"),
    Planted("OpenAI", "abcdef1234567890abcdef", "using sk-abcdef1234567890abcdef now", kept="sk-"),
    Planted("OpenAI, project", "AbC1234567890_xyz-12", "using sk-proj-AbC1234567890_xyz-12 now", kept="now"),
    Planted(
        "GitHub", "16C7e42F292c6912E7710c838347Ae178B4a", "x ghp_16C7e42F292c6912E7710c838347Ae178B4a y", kept="ghp_"
    ),
    Planted("GitHub, server", "16C7e42F292c6912E7710c838347", "x ghs_16C7e42F292c6912E7710c838347 y", kept="ghs_"),
    Planted("GitHub, fine-grained", "11ABCDEFG0abcdefghij", "github_pat_11ABCDEFG0abcdefghij_klmnopqrst"),
    Planted("Slack", "17653672481-19874698323", "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcBrzbqgy"),
    Planted("AWS", "IOSFODNN7EXAMPLE", "id AKIAIOSFODNN7EXAMPLE used"),
    Planted("Google", "SyDdI0hCZtE6vySjMm-WEfRq3CPzqKqqsHI", "key AIzaSyDdI0hCZtE6vySjMm-WEfRq3CPzqKqqsHI"),
    Planted("Hugging Face", "abcdefGHIJKLmnopqrstUV12", "from hf_abcdefGHIJKLmnopqrstUV12"),
    Planted("GitLab", "AbC123dEf456GhI789jK", "from glpat-AbC123dEf456GhI789jK"),
    Planted(
        "hexadecimal behind a key", "9f86d081884c7d659a2feaa0c55ad015", "signing_key=9f86d081884c7d659a2feaa0c55ad015"
    ),
    Planted(
        "traceback, a literal in a source line",
        "hunter2lit",
        'Traceback (most recent call last):\n  File "/x/db.py", line 3, in go\n'
        '    connect(user, password="hunter2lit")\nValueError: no',
        kept="ValueError: no",
    ),
    Planted(
        "traceback, the error's own text",
        "hunter2err",
        'Traceback (most recent call last):\n  File "/x/db.py", line 3, in go\n    connect(user, password=password)\n'
        "ValueError: cannot reach postgres://u:hunter2err@db/x",
        kept="password=password",
    ),
    Planted("registered, as it is", _PLAIN, f"the key {_PLAIN} was used", kept="was used"),
    Planted("registered, in the middle of a word", _PLAIN, f"x{_PLAIN}y"),
    Planted(
        "registered, quoted for a URL", quote(_AMPERSAND, safe=""), f"/x/{quote(_AMPERSAND, safe='')}/y", kept="/y"
    ),
    Planted("registered, in JSON", "17", json.dumps({"note": _ODD}), kept="note"),
    Planted(
        "registered, base64",
        base64.b64encode(_PLAIN.encode()).decode()[:20],
        base64.b64encode(_PLAIN.encode()).decode(),
    ),
    Planted(
        "registered, base64 behind a user",
        base64.b64encode(b"me:" + _PLAIN.encode()).decode()[6:24],
        "x " + base64.b64encode(b"me:" + _PLAIN.encode()).decode(),
    ),
    Planted("registered, in an environment", _KEY, f"EDITOR=vi X={_KEY}", kept="EDITOR=vi"),
)

_FIELDS = (
    Planted("name of a key", "open-sesame-1", fields={"password": "open-sesame-1"}),
    Planted("name in camel case", "open-sesame-2", fields={"clientSecret": "open-sesame-2"}),
    Planted("nested", "open-sesame-3", fields={"request": {"headers": {"Authorization": "open-sesame-3"}}}),
    Planted("in a list", "open-sesame-4", fields={"peers": [{"name": "a", "token": "open-sesame-4"}]}),
    Planted("a number", "90871234", fields={"pin": 90871234}),
    Planted("bytes", "open-sesame-5", fields={"private_key": b"open-sesame-5"}),
    Planted("a list under a secret's name", "open-sesame-6", fields={"cookies": ["open-sesame-6"]}),
)

PLANTED = (*TEXTS, *_FIELDS, *(case._replace(text="", fields={"value": {"deep": [case.text]}}) for case in TEXTS[::5]))
