"""Where a value begins and ends, and how little is none: each case has its secret in `«»`, if there is one."""

from __future__ import annotations

import re

import pytest

from hearthnet.observability.redaction import values
from hearthnet.observability.redaction.rules import REDACTED, kind_of, scrub
from hearthnet.observability.redaction.values import ELEMENTS, KEYED, PAIRED, is_basic

_SECRET = re.compile(r"«(.*?)»", re.DOTALL)
NAMES = [
    "password_" + "ab_" * 18 + "z=«abcd1234efgh»", "password_" + "ab_" * 18 + "zz=abcd1234efgh",
    "password_" + "ab_" * 18 + "z: «abcd1234efgh»", "x password_" + "ab_" * 18 + "z=«abcd1234efgh»",
    "x password_" + "ab_" * 18 + "zz=abcd1234efgh", r"C:\x ntoken=abcd1234efgh", '"token" : "«abc»"',
    r"C:\x token=«abcd1234efgh»", r"C:\n\x npm_token=«abcd1234efgh»", r"a\ntoken=«abcd1234efgh»", r"a\name=1",
    "ntoken=abcd1234efgh", "rtoken=abcd1234efgh", r"\rtoken=«abcd1234efgh»", r"\xtoken=abcd1234efgh",
    r"C:\token=«abcd1234efgh»", "password =>  «abcd1234»", "password=  «>abcd1234»", "password:=«abcd1234»",
    "password\t=\t«abcd1234»", "http://token:80/x", "a.token:8080", "a.token:«80801234»", "a.token: «8080123x»",
    "/x/token:abcd1234", "AuthFail:3abcd1234", "AuthFail: «3abcd1234»", "AuthToken:«3abcd1234»",
    "'AuthFail':«3abcd1234»", "SecretError: abcd1234", "x.py:abcd1234", "SecretError=«abcd1234»",
    "token://abcd1234", "x.password:8080", "x.password:«808012»", "x.password: «8080»", "password:«8080»",
    "x.token: «abcd1234efgh»", "=, x_token=«abcd1234efgh»", ": x_token: «abcd1234efgh»",
]  # fmt: skip
OWNERS = [
    "stripe   key: «a1b2c3d4e5»", "my  api  key: «379755465090»", "the key: a1b2c3d4e5",
    "api key: thing-API", "shared key: «a1b2c3d4e5»",
    "signed key: a1b2c3d4e5", "checking key: a1b2c3d4e5", "signing key: «a1b2c3d4e5»", "cache   key: a1b2c3d4e5",
    "k key: a1b2c3d4e5", "stripe    key: «a1b2c3d4e5»", "stripe     key: a1b2c3d4e5",
]  # fmt: skip
PAIR = f"%s{'a' * 20}: {'b' * 40}"
BORROWED = [
    "name: x_token, a: b, c: d, value: «abcd1234efgh»", "name: x_token, a: b, c: d, e: f, value: abcd1234efgh",
    "name: host, token: 3, value: abcd1234efgh", "x_token: str = '«abcd1234efgh»'", "x_token value = 'abcd1234efgh'",
    "name=x_token" + " " * 40 + "value=«abcd1234efgh»", "name=x_token" + " " * 41 + "value=abcd1234efgh",
    f"name: x_token{PAIR % (' ' * 30) * 2}{' ' * 30}value: «abcd1234efgh»",
    f"name: x_token{PAIR % (' ' * 40) * 2}{' ' * 40}value: abcd1234efgh",
    "- name: X_TOKEN\n  kind: plain\n  value: «abcd1234efgh»",
    "<name>x_token</name> <value>«abcd1234efgh»</value>", "<name>x_key</name> <value>«a1b2c3d4e5»</value>",
    "<name>x_token</name>" + " " * 41 + "<value>abcd1234efgh</value>", "<value>abcd1234efgh</value>",
    "<x_token>  «abcd1234efgh»  </x_token>", "<x_token>none</x_token>", "<x_token>[redacted]</x_token>",
    "<x_key>primary</x_key>", "<x_token><![CDATA[«abcd1234efgh»]]></x_token>",
]  # fmt: skip
URLS = [
    "https://«tok3n»:«x-oauth-basic»@github.com/a", "https://bob:«zebra12»@h", "https://bob:«a1b2c3d4e5f6g7h8i9j0»@h",
    "https://bob:«S3cretPw»@h",
    "https://«a1b2c3d4e5f6g7h8i9j0»@h/x", "https://«a1b2c3d4e5f6g7h8i9j0»:«pw»@h", "redis://:«S3cretPw»@h",
    "https://bob:80?x@h", "https://«a1b2c3d4e5f6g7h8i9j0»:@h", "https://bob:«8080»@h",
]  # fmt: skip
SHORT = [
    "token: ab1cd", "token: «ab1cde»", "pin: ab1c", "{pin:«wrong»}", "token: «hcauQVyzLci»", "token: identifierOfAll",
    "token: «identifierOfAlls»", "token: «identifierOfAllOf»", 'token: "identify"', "auth:«ABC12345»", "auth:«simplex»",
    "password=«$a1b2c3d4»", "password=$PASSWORD",
    "pin: 123", "pin: «1234»", "token: 1234567", "token: «12345678»", "pin=123", "pin=«1234»", "otp: «12345»",
    "passcode: 12", "auth:SIMPLE", "auth:«Simple1x»", "x_auth=KERBEROS", "token:«SIMPLE»", "password: «short»",
    "password: «shorts» and more", "token: shorts", "token: shorty and more", "token: «shor7y» and more",
    "token: abcde", "token: «abcde1»", "secret: «the»", "secret: the end", "secret: «thee» end",
    "cookie: and more here", "X-Auth: the", "X-Auth: «thee»", 'token: "«abcdefg1»"', 'token: "abcdefg"',
    'token: "abcdef1"', "x_token: '«abcdefghijklmnop»'", "x_token: 'identifierOfAll'", "x_token: '«identifierOfAlls»'",
]  # fmt: skip
ENDS = [
    "[('n', '1'), ('cookie', '«abcdef»')]", "password=«a=b» c", "authorization: Bearer «1234567»",
    "jdbc:oracle:thin:bob/«S3cretPw9x»@host",
    "x_token=«aB3$x#1yQ'\"zz9»", "X_TOKEN=«aB3$x#1yQ'\"zz9»", "X_TOKEN: «aB3$x#1yQ'\"zz9»",
    r'{\"password\": \"\", \"n\": 1}', r'{\"password\": \"«a»\", \"n\": 1}', 'token="Bearer "',
    "password=«{a: {b: 1}, c: 2}», d=3", "password={}", "password=[]", "password=«[a]»b",
    "password=«{a]»}b", "password=«{" + ("a: b, " * 1_000)[:4_095] + "»" + "a: b, " * 9,
    "cookie: «a=b and more»", "mnemonic: «one two three»\nfour", "Cookie: «a=b; c=d»\nx", "Cookie: ab; cd\nx",
    "('password=«two words»', 'A=b')", "'password=«two» words", "'password=«two» words\nmore'",
    "'password=«two» a=b words'", '"password=«two words»" x', "`password=«two» words` x",
    "'password: «two» words' x", "'password=«a" + " " * 399 + "»' x", "'password=«a»" + " " * 401 + "' x",
    "Authorization: Digest «a=1, b=2»\nnext", "Authorization: Bearer «abc1234» next",
    "Authorization: hmac «a b c»\nnext", "Authorization: Digest «a=1, b=2»",
    "X_TOKEN=«" + "aB3$,e;F" * 100 + "» on", "X_KEY=«" + "aB3$,e;F" * 100 + "» on",
]  # fmt: skip
FRAME = '  File "/x/a.py", line 3, in f\n'
SOURCES = [
    f"\n{FRAME}   token=abcd1234efgh",
    f"{FRAME}    token=abcd1234efgh", f"{FRAME}   token=abcd1234efgh", f"{FRAME}  token=«abcd1234efgh»",
    f"{FRAME}token=«abcd1234efgh»", "    token=«abcd1234efgh»", f"{FRAME}    token=«12345678»",
    f"{FRAME}    {'x' * 394} token=«abcd1234efgh»", f"{FRAME}    {'x' * 380} token=abcd1234efgh",
    'File "/x/a.py"' + "\n" * 990 + "    token=«abcd1234efgh»",
    'File "/x/a.py"' + "\n" * 980 + "    token=abcd1234efgh",
    f"{FRAME}  | token=abcd1234efgh", f"  | {FRAME}  | token=«abcd1234efgh»",
]  # fmt: skip
CASES = [*NAMES, *OWNERS, *BORROWED, *URLS, *SHORT, *ENDS, *SOURCES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[:40])
def test_value_is_what_it_is_up_to_its_bounds(case):
    """Neither more of a text is replaced nor less, whatever comes behind it."""
    text, cleaned = _SECRET.sub(r"\1", case), _SECRET.sub(REDACTED, case)

    assert scrub(text) == cleaned
    assert scrub(f"{text}\nand more") == f"{cleaned}\nand more"


@pytest.mark.parametrize(
    ("text", "part", "names"),
    [
        ("""("x_token", "abc ('y_token', 'zz') d") (b"zz", b"q")""", PAIRED, ["x_token", "zz"]),
        ("x_token='a y_token=b z_token=c' w=1", KEYED, ["x_token", "w"]),
        ("a x_token: {b: 1, c_token: 2} d: 3", KEYED, ["x_token", "d"]),
    ],
)
def test_what_is_within_a_value_is_not_searched_again(text, part, names):
    """So the time stays linear in the length of the text."""
    judged: list[str] = []
    spans = list(values.named(text, lambda name: judged.append(name) or kind_of(name), part))

    assert len(spans) == 1
    assert judged == names


@pytest.mark.parametrize("part", [KEYED, PAIRED, ELEMENTS])
def test_text_without_the_signs_of_a_part_has_none_of_it(part):
    """Whatever is asked for."""
    assert list(values.named("with x_token and nothing of it", kind_of, part)) == []


def test_only_the_beginning_of_a_long_value_tells_what_it_is():
    """Capitals behind 512 small letters mix no cases."""
    words = "the-" * 128

    assert scrub(f"X_KEY={words}DEF-of-it on") == f"X_KEY={words}DEF-of-it on"
    assert scrub(f"X_KEY={words[:504]}DEF-of-it on") == f"X_KEY={REDACTED} on"


@pytest.mark.parametrize(
    ("credentials", "is_one"),
    [
        ("Ym9iOnB3", True), ("Ym9iOnB3MQ==", True), ("Ym9iOnB3MQ", True), ("Ym9iOnB3MTI=", True), ("Ym9iOnB3MTI", True),
        ("Ym9iOnB3M", False), ("Ym9icHcx", False), ("Ym9iOnB3AA==", False), ("information", False), ("gIA6", False),
        ("Ym9iOj8_Pz8-", True), ("YTpiYw==", True), ("YTpiYw", True),
    ],
)  # fmt: skip
def test_basic_credentials_have_a_user_and_a_password(credentials, is_one):
    """With padding and without, in both alphabets; neither other bytes nor a word."""
    assert is_basic(credentials) == is_one


@pytest.mark.parametrize("text", [
    '{"secret": {"password": "kQ7}x>Z2[m,9]pL"}}',
    r'{\"credentials\": {\"password\": \"kQ7}x>Z2[m,9]pL\"}}',
    "{'api_keys': ['kQ7]xZ2>m9pL', 'b}c]d']}",
    "{'api_keys': ['it\\'s ]xZ2>m9pL']}",
])  # fmt: skip
def test_brackets_within_quotes_end_no_value(text):
    """What is in brackets behind a secret's name is a secret to its own bracket."""
    assert scrub(text + " rest").endswith("[redacted]} rest")


@pytest.mark.parametrize("before", ["x_token ", "api key is ", "sent X-Api-Token: "])
def test_value_that_is_longer_than_what_decides_goes_to_its_end(before):
    """No tail is left."""
    assert scrub(f"{before}{'aB3dE5gH7j' * 60} end") == f"{before}[redacted] end"
