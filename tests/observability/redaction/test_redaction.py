"""Redaction by key name, by registered value, and by shape."""

from __future__ import annotations

import base64
import json
import re
import threading
from itertools import count
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.longer import few
from support.planted import PLANTED, REGISTERED, TEXTS
from support.waiting import cpu_s

from hearthnet.observability.logging import install_sinks
from hearthnet.observability.redaction import rules as redaction
from hearthnet.observability.redaction.rules import (
    REDACTED,
    _choose_pivots,
    is_worth_registering,
    needs_scrub,
    scrub,
    spellings,
)
from hearthnet.observability.redaction.told import Known, known, known_here

# What looks like a secret, or like its name, and is none: it must come out as it went in.
PLAIN = [
    "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "ed25519:7H4G-QX2A-MMZZ-ABCD", "7H4G-QX2A",
    "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "d41d8cd98f00b204e9800998ecf8427e",
    "sha256=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "blob:9f86d081884c7d65",
    "id=550e8400-e29b-41d4-a716-446655440000", "trace 4bf92f3577b34da6a3ce929d0e0e4736 span 00f067aa0ba902b7",
    "session_id=01HXR4Z6W5S9E2JQ4Y0T7B3M1C", 'W/"5e8-5cbf"', "2026-05-26T08:14:22.281Z",
    "tokens: 128", "token: 128", "token: 128.",
    "tokens_in=12 tokens_out=9 max_tokens=512", "token_count: 5, token_limit=4096",
    "the token was refused", "unexpected token: expected a comma", "unexpected token: '}' at line 3",
    "Invalid token: expected 3 segments", "prompt has 512 tokens, 12.5 tokens per second", "no match for 'token'",
    "/home/bob/.local/share/hearthnet/keys/device.ed25519", "hearthnet/auth.py:12: in check",
    "/usr/lib/auth:/opt/token:/bin", "http://auth.example.com:8443/path", "auth.example.com:8443",
    "hearthnet.auth: started", "KeyError: 'missing'", "AuthError: not a member", "TokenError: unexpected end",
    "std::auth::login failed", "auth: ok", "auth=true", "1 test pass: all good", "compass=north", "monkey: banana",
    "key=3", "author=bob", "mapping: 3 pins", "spin=1", "pinned: true", "cookie: rejected by policy",
    "password=None", "password: null", "api_key=${API_KEY}", "token=<missing>", "secret=***", "credentials: none",
    "{'password': None, 'token': ''}", "password: must be at least 8 characters", "--password is required",
    "missing argument: 'password'", "ssh://git@github.com/x", "mail bob@example.com: sent",
    "http://h:7080/p?email=a@b.c", "7080/tcp -> 0.0.0.0:7080", "otpauth://totp/x", "x-hearthnet-signature: ed25519:abc",
    "Basic information about it", "bearer of bad news", "Bearer token required", "Bearer realm=example",
    "task-0123456789abcdef0123", "disk-usage-of-a-long-name-0123456789", "risk-assessment-2026-05-26-north",
    "shf_abcdefghijklmnopqrst12", "the eyJust thing.com", "def f(key: str, token_id: int) -> None:",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBa\n-----END CERTIFICATE-----",
    "", "a", "short", REDACTED, "password=[redacted]", "Cookie: [redacted]", "Bearer [redacted]",
    ('Traceback (most recent call last):\n  File "/x/auth.py", line 3, in login\n'
    '    return connect(user, password=password, token=self._token, api_key=os.environ["K"])\n'
    '  File "/x/b.py", line 9, in connect\n    def connect(user: str, password: str | None = None, pin=1) -> Secret:\n'
    "TypeError: connect() got an unexpected keyword argument 'token'"),
]  # fmt: skip
# Repeated to 64 KiB, each is the worst that is known for one of the expressions.
HOSTILE = [
    "key", "password=", 'password="', "password={", "password: ", "token: ", "eyJa.", "eyJaaaaa.a", "-", "--x ",
    "sk-", "ghp_", "xoxb-1", "://", "://a:", "://aaaaaaaaaaaaaaaaaaaaa", "Bearer ", "bearer a", "Basic abcdef",
    "-----BEGIN PRIVATE KEY-----", "password=\\", 'password=\\"', "password= ", "=", ":", "password='x\"",
    "passphrase: a ", "\n    token=", '{"a":{"pin":', "password=,a", "password=,,,,,aaaa", "password=<",
    "password=....", "cookie=a=b\"", "Authorization: Digest a", "a.-_", " ", "<aa", "<password>", "<password ", "</",
    "<password>a</password>", "('token', ", '["token", ', "--token', '", "--token', ", " -p", "curl -u a",
    "curl -u a:b ",
    "mysql -p", "mysql -pa ", "name: token\nvalue: ", 'name="token" value="', "value=", "value: a", "string=",
    "token string = ", "SG.", "SG.aaaaaaaaaaaaaaaaaaaaaa.", ".atlasv1.", "A", "AAAAAAAAAAA", "eyJrIjoi", "ghp_a1",
    "ghp_aaaaaaaaaaaaaaa1", "ghp_aaaaaaaaaaaaaaa1 ", "ghp_aaaaaaaaaaaaaaa1..", "_aaaaaaaaaaaaaaaaa", "_aA",
    "-aaaaaaaaaaA", "AQ.", "b_.", "YC.", "NF-", "ghs_key://", "x_token a1a1",
    "https://hooks.slack.com/services/", ".com/api/webhooks/", "0123456789:A", "_mmk", "aaaaaaaa-us1", "~", "|", "1%7C",
    "x_key=", "x_key=a1", "x_key=aaaaaaaaaaaaaaaaaaaaaaaaa1 ", "x_key=\"aaaaaaaaaaaaa", "'password=", "'password=a b",
    "password='a'b", "password=a1b2c3d4;", "_token ", "x_token a1b2c3d4 ", "key ", "api key: a1b2c3d4 ", "token a1",
    "_key a", "$2b$12$", "$6$a$", "1000.", "0.A", ".v1.", "cio", "oy2", "stripe key: ", "a key = ",
    "BBDC-", "BBDC-1234567890123456@a.", "BBDC-@a.", "@", "$krb5tgs$23$",
    "password '", "login b password ", "password ", "PASSWORD 'a", "Private-Lines: 1", "oracle:thin:a/",
    "oracle:thin:a/@",
    "--- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----", "$argon2id$v=1$m=1,t=1,p=1$a", "$123456$a", "$y$a$",
    "IDENTIFIED BY 'a",
    "\\ntoken=", "a\\npassword: a",
    "M", "M.", "aaaaaaa.", "%", "token=\"x token=\"a1b2c3d4e5\"\" ",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_registered():
    """Each test starts and ends without registered values and settings."""
    redaction.configure()
    redaction.forget_secrets()
    yield
    redaction.configure()
    redaction.forget_secrets()


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

    assert len(redaction.active.verdicts) <= redaction._MAX_REMEMBERED


@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case.description)
def test_planted_secret_is_scrubbed(case):
    """No character of the secret is left, what surrounds it is, and a second time changes nothing."""
    redaction.register_secrets(REGISTERED)
    cleaned = scrub(case.text)

    assert needs_scrub(case.text)
    assert case.secret not in cleaned
    assert case.kept in cleaned
    assert REDACTED in cleaned
    assert scrub(cleaned) == cleaned


def test_enough_is_planted():
    """The table has secrets in every kind of place, and its secrets are really there."""
    assert len(PLANTED) >= 40
    assert all(case.secret in case.text or case.secret in repr(case.fields) for case in PLANTED if case.kept != "note")


@pytest.mark.parametrize("text", PLAIN, ids=lambda text: text[:40] or "empty")
def test_what_is_no_secret_stays(text):
    """Ids, hashes, prose about tokens, paths, code in tracebacks: the very same text comes back."""
    assert scrub(text) is text


def test_what_helps_to_diagnose_stays():
    """Scheme, name, host and the other parameters can still be read."""
    assert scrub("Authorization: Bearer abc.def-1") == "Authorization: Bearer [redacted]"
    assert scrub("https://user:pw12@host/p?api_key=abc&x=1") == "https://user:[redacted]@host/p?api_key=[redacted]&x=1"
    assert scrub('{"apiKey": "v-1", "n": 1}') == '{"apiKey": "[redacted]", "n": 1}'
    assert scrub("password=hunter2, user=bob") == "password=[redacted], user=bob"
    assert scrub("with sk-abcdef1234567890abcdef") == "with sk-[redacted]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"{\"password\": \"hunter2 hunter2\", \"n\": 1}", r"{\"password\": \"[redacted]\", \"n\": 1}"),
        (r"{\\\"password\\\": \\\"hunter2\\\", \\\"n\\\": 1}", r"{\\\"password\\\": \\\"[redacted]\\\", \\\"n\\\": 1}"),
        (r"{\"password\": \"hunter2 hunter2", r"{\"password\": \"[redacted]"),  # cut off
        ("[('cookie', 'abcdef'), ('n', '1')]", "[('cookie', '[redacted]'), ('n', '1')]"),
        ("('pin', 'wrong')", "('pin', '[redacted]')"),  # a pair is no prose
        ("pin:wrong", "pin:[redacted]"),
        ("pin: wrong", "pin: wrong"),
    ],
)
def test_value_ends_where_it_was_written_to_end(text, expected):
    """At the quote that it began with, however deep that is escaped; at the end of what is left of a text."""
    assert scrub(text) == expected


@pytest.mark.parametrize("value", REGISTERED)
def test_registered_value_is_found_in_every_spelling(value):
    """As it is, quoted for a URL, in JSON and in Python's quotes, in base64 wherever it begins."""
    redaction.register_secrets([value])
    raw = value.encode()
    texts = [value, quote(value, safe=""), json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)]
    texts += [base64.b64encode(head + raw).decode() for head in (b"", b"u", b"u:", b"me:")]
    texts += [base64.urlsafe_b64encode(b"x" + raw + b"tail").decode()]

    for text in texts:
        cleaned = scrub(f"<{text}>")
        assert REDACTED in cleaned
        assert not any(spelling in cleaned for spelling in spellings(value))


@pytest.mark.parametrize("value", [*REGISTERED, "wörtchen-\"7'\\n\t9", "ключ-от-дома-12", 'back\\slash-4711"'])
@pytest.mark.parametrize(
    "spell", [json.dumps, lambda value: json.dumps(value, ensure_ascii=False), repr, lambda value: f'"{value}"']
)
def test_registered_value_is_replaced_whole(value, spell):
    """Nothing of it is left beside the mark, and nothing else is lost: the quotes around it stay."""
    redaction.register_secrets([value])
    text = spell(value)

    assert scrub(f"<{text}>") == f"<{text[0]}{REDACTED}{text[-1]}>"


def test_bytes_of_a_key_are_found_in_every_spelling():
    """Hexadecimal in either case, both kinds of base64, Python's own way to show bytes."""
    raw = bytes(range(200, 232))
    redaction.register_secrets([raw])
    for text in (
        raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), repr(raw)
    ):  # fmt: skip
        assert REDACTED in scrub(f"<{text}>")
        assert text[8:-8] not in scrub(f"<{text}>")


@pytest.mark.parametrize(
    "value",
    [
        "", "short", "1234567", "12345678901234", "127.0.0.1:7080", "192.168.10.20", "localhost", "production",
        "changeme", "/usr/local/bin", "~/keys/device", "/run/user/1000/keyring:/tmp/x y", "http://127.0.0.1:8080",
        "swordfish", "größeren", "AAAAaaaa",
        "aaaaaaaaaaaa", "maple-street.local", "[redacted]", "redacted", "x[redacted]yz9", "x" * 20_000,
    ],
)  # fmt: skip
def test_values_that_are_everywhere_are_not_registered(value):
    """What is short, a number, a path, a host or a common word would be redacted where it is no secret."""
    assert not is_worth_registering(value)
    assert redaction.register_secrets([value]) == 0


def test_forgotten_values_are_recorded_again():
    """What a text was remembered as does not outlive the values that it was judged by."""
    text = f"note {REGISTERED[2]} here"
    assert scrub(text) is text
    redaction.register_secrets(REGISTERED)
    assert scrub(text) == "note [redacted] here"
    redaction.forget_secrets()
    assert scrub(text) is text


def test_as_many_values_as_a_node_could_have():
    """Two hundred values are found, and the number that is kept is bounded."""
    values = [f"value-{number:04}-{number * 7919 % 10_007:05}" for number in range(300)]
    assert redaction.register_secrets(values) == redaction._MAX_SECRETS

    assert all(scrub(f"a {value} b") == "a [redacted] b" for value in values[: redaction._MAX_SECRETS])
    assert scrub("a value-9999-00000 b") == "a value-9999-00000 b"


def test_own_names_and_patterns():
    """What the settings add is redacted like the rest; a group says which part."""
    redaction.configure(["house code", "gateCode"], [r"HH-\d{4}", r"ticket (\w+) of"])

    assert redaction.is_secret("houseCode")
    assert redaction.is_secret("my_gate_code_2")
    assert not redaction.is_secret("code")
    assert scrub("opened with gate_code=4711x") == "opened with gate_code=[redacted]"
    assert scrub("badge HH-1234") == "badge [redacted]"
    assert scrub("ticket a81 of bob") == "ticket [redacted] of bob"
    redaction.configure()
    assert not redaction.is_secret("houseCode")
    assert scrub("badge HH-1234") == "badge HH-1234"


def test_text_that_was_clean_is_searched_anew():
    """What the settings add is found in texts that were seen before."""
    assert scrub("badge HH-1234, gate_code=4711x") == "badge HH-1234, gate_code=4711x"
    redaction.configure(["gateCode"], [r"HH-\d{4}"])

    assert scrub("badge HH-1234, gate_code=4711x") == "badge [redacted], gate_code=[redacted]"


def test_pattern_that_is_none_is_refused():
    """A mistake in an expression raises; the earlier settings stay."""
    redaction.configure([], [r"HH-\d{4}"])
    with pytest.raises(re.error):
        redaction.configure([], ["("])

    assert scrub("badge HH-1234") == "badge [redacted]"


@pytest.mark.parametrize("length", few([32_768, 65_536], 32_768))
@pytest.mark.parametrize("unit", HOSTILE)
def test_time_is_linear_in_the_length(unit, length):
    """Twice the text takes about twice the time, not four times, for the worst text that is known."""
    scrub(unit * 3)  # the first use of an expression is not what is measured
    shorter, longer = (unit * (size // len(unit)) for size in (length // 8, length))
    limit_s = 24 * cpu_s(lambda: scrub(shorter), 3) + 0.0005

    # Eight times the text; quadratic would be 64 times. Half a millisecond is what a clock's tick may add.
    assert any(cpu_s(lambda: scrub(longer)) < limit_s for _ in range(3))  # a busy machine's caches are cold


_PIECES = st.sampled_from([
    "password=", "token: ", '"apiKey": "', "'secret': '", "Bearer ", "Basic ", "://u:", "@h", "Cookie: a=",
    "--token ",
    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "sk-", "eyJ", REDACTED, "[redacted", "redacted]",
    *REGISTERED, "\n", "\n    ", 'File "x"', "\\", '"', "'", "{", "}", "[", "]", ",", ";", "&", " ", "=", ":",
    "Authorization: Digest ",
])  # fmt: skip
_TEXTS = st.lists(_PIECES | st.text(max_size=12), max_size=12).map("".join)


@settings(deadline=None)  # compiling the expression for registered values takes some milliseconds
@given(_TEXTS)
@example(f"Basic {REGISTERED[0]}")
@example("password=[redacted")
@example("password=[redacted] [redacted]x")
@example('passphrase: [redacted] a"')
@example("Authorization: Bearer [redacted]x")
@example("://u:[redacted]x@h")
def test_any_text_can_be_scrubbed(text):
    """Nothing raises, doing it twice is doing it once, and no registered value is left."""
    redaction.register_secrets(REGISTERED)
    cleaned = scrub(text)

    assert scrub(cleaned) == cleaned
    assert not any(value in cleaned for value in REGISTERED)
    assert needs_scrub(text) or cleaned is text


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=8, max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_any_value_can_be_registered(value, before, after):
    """A registered value is found anywhere, whatever its characters."""
    redaction.forget_secrets()
    known = redaction.register_secrets([value])

    assert (value in scrub(before + value + after)) <= (known == 0)


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), min_size=8, max_size=12))
def test_half_characters_do_no_harm(text):
    """Surrogates, which are no text at all, neither raise here nor when registered."""
    redaction.forget_secrets()
    redaction.register_secrets([text])

    assert isinstance(scrub(f"password={text}"), str)


def test_what_is_remembered_is_bounded():
    """What has been found harmless is not searched again; neither many texts nor long ones grow the memory."""
    redaction.active.clean.clear()
    for number in range(redaction._MAX_REMEMBERED):
        scrub(f"harmless number {number}")
    assert len(redaction.active.clean) == redaction._MAX_REMEMBERED
    for number in range(10_000):
        scrub(f"text number {number}")
    long = "prose about nothing in particular, " * 10
    scrub(long)

    assert len(redaction.active.clean) <= redaction._MAX_REMEMBERED
    assert long not in redaction.active.clean


def test_registering_while_others_scrub():
    """Once `register_secrets` has returned, no thread's scrubbing lets the value through."""
    stop = threading.Event()
    numbers = count()
    failed = []

    def scrub_all_the_time():
        while not stop.is_set():
            try:
                scrub(f"note {REGISTERED[2]} {next(numbers) % 50}")
            except RuntimeError as error:  # a dictionary that changed while it was read, say
                failed.append(error)

    threads = [threading.Thread(target=scrub_all_the_time) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        redaction.register_secrets(REGISTERED)
        assert all(REGISTERED[2] not in scrub(f"note {REGISTERED[2]} {number}") for number in range(50))
        redaction.forget_secrets()
    stop.set()
    for thread in threads:
        thread.join()

    assert failed == []


@pytest.mark.parametrize("secret", ["dapi0123456789abcdef0123456789abcdef", f"SG.{'a1b2c3d4' * 8}abc"])
def test_values_change_while_a_text_is_searched(monkeypatch, secret):
    """What another thread registers between two expressions hides no token from the second."""
    search = redaction.active.compiled().all.search

    def interrupted(text):
        found = search(text)
        redaction.active.forget_shapes()
        return found

    monkeypatch.setattr(redaction.active, "search", interrupted)

    assert needs_scrub(f"sent {secret} on")


def test_pivots_are_few():
    """Many values share few first characters, rare ones: that is what makes the search quick."""
    values = [base64.b64encode(bytes(range(number, number + 30))).decode() for number in range(60)]
    pivots = _choose_pivots(values)

    assert all(set(pivots) & set(value) for value in values)
    assert len(pivots) < 10
    assert not set(pivots) & set("etaoinsr .:")


def test_registered_values_are_found_by_characters_that_others_use():
    """By one that the shapes begin with, whatever comes before it."""
    registered = redaction.compile_shapes(["alpha-beta-9", "gamma-delta-8"]).registered

    assert registered is not None
    assert [branch[:2] for branch in registered.pattern.split("|")] == [r"\-", r"\-"]


def test_key_is_found_as_a_list_of_numbers():
    """As `list(key)` shows it, and in all its hexadecimal forms."""
    key = bytes(range(200, 216))

    assert {", ".join(map(str, key)), key.hex(), key.hex().upper(), key.hex(":"), repr(key)[2:-1]} <= spellings(key)


def test_change_of_rules_is_told(monkeypatch):
    """Those that remember harmless texts forget them."""
    told = []
    monkeypatch.setattr(redaction, "_remembering", [])
    redaction.on_change(lambda: told.append(1))
    redaction.register_secrets(["correct horse battery 9"])
    redaction.configure()

    assert told == [1, 1]


def test_known_secrets_are_so_within_their_block_only():
    """Afterwards none is known to this thread, and nothing of it is kept."""
    with Known(["abcd1234x"]):
        assert known_here() == ("abcd1234x",)

    assert known_here() == ()
    assert threading.get_ident() not in known


def test_text_looked_at_while_the_expression_is_compiled_does_not_wait(monkeypatch):
    """A signal handler, or a finalizer, logs in the millisecond that compiling takes: it is scrubbed all the same."""
    redaction.register_secrets(["correct horse battery"])
    compiling = redaction.compile_shapes
    seen = []

    def interrupted(values):
        monkeypatch.setattr(redaction, "compile_shapes", compiling)
        seen.append(scrub("inner: correct horse battery"))
        return compiling(values)

    monkeypatch.setattr(redaction, "compile_shapes", interrupted)
    outer = threading.Thread(target=lambda: seen.append(scrub("outer: correct horse battery")), daemon=True)
    outer.start()
    outer.join(10)

    assert not outer.is_alive()
    assert seen == [f"inner: {REDACTED}", f"outer: {REDACTED}"]


def test_everything_is_compiled_where_logging_is_configured():
    """No record waits tens of milliseconds for it."""
    redaction.configure(["moon-phase"])
    redaction.register_secrets(["correct horse battery"])
    assert (redaction.active.shapes, redaction.active.look) == (None, redaction._look_first)

    install_sinks(SimpleNamespace(log_level="info", log_dir=None, keep_debug_of_failures=False))
    assert redaction.active.shapes is not None
    assert redaction.active.look is not redaction._look_first
    assert redaction.active.search_words is not redaction._search_words_first
    assert redaction.active.look("moon-phase: new") is not None
