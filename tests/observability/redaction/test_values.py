"""Values behind names: signs of languages, markup, pairs of name and value, nested quotes, and what is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.longer import examples

from hearthnet.observability.records.record import bounded
from hearthnet.observability.redaction import rules
from hearthnet.observability.redaction.rules import REDACTED, needs_scrub, scrub

S = "abcdef1234567890"
FORMS = [
    'setenv("API_TOKEN", "{}")', "setenv('API_TOKEN', '{}')", 'System.setProperty("X_TOKEN", "{}")',
    'request.header("X-Api-Key","{}")', 'os.environ.setdefault("DB_PASSWORD",\n    "{}")', '["X-Api-Key", "{}"]',
    "<ApiToken>{}</ApiToken>", "<password>{}</password>", "<ns:Password>\n  {}\n</ns:Password>",
    '<password encrypted="no">{}</password>', "<password><![CDATA[{}]]></password>",
    '<add key="ClearTextPassword" value="{}"/>', '<entry name="apiToken" value="{}" />',
    '<property name="db.password" type="string" value="{}"/>', "<name>fs.secret.key</name>\n<value>{}</value>",
    '{{"name": "x_token", "value": "{}"}}', '{{"name":"x_token","type":"secret","value":"{}"}}',
    '{{"key": "X-Auth-Token",\n  "value": "{}"}}', '{{\\"name\\": \\"x_token\\", \\"value\\": \\"{}\\"}}',
    "- name: X_TOKEN\n  value: {}", '- name: "X_TOKEN"\n  value: "{}"',
    'var xToken string = "{}"', 'const apiToken: string = "{}";', 'val token: String = "{}"', 'token: str = "{}"',
    'let token: &str = "{}";', 'X_TOKEN ?= "{}"', '$xToken .= "{}";', 'X_TOKEN := "{}"', 'X_TOKEN ::= "{}"',
    'X_TOKEN += "{}"', 'x_token ||= "{}"', '"xToken" => "{}"', "token = `{}`",
    'token = "x token = "{}""', "password = 'it's {}'", 'password="a "quoted {}" one"',
    "Authorization: SSWS {}", "AccountName=x;AccountKey={0}{0};E=y", "https://h/p?X-Amz-Signature={0}{0}&x=1",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_value_is_redacted(form):
    """In whatever language or markup the value follows its name."""
    text = f"before {form.format(S)} behind"
    cleaned = scrub(text)

    assert S not in cleaned
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" behind")
    assert scrub(cleaned) == cleaned


@pytest.mark.parametrize("form", FORMS)
def test_placeholder_is_kept(form):
    """The same forms with no secret in them."""
    for word in ("none", "${TOKEN}"):
        text = form.format(word)
        assert word in scrub(text) or "AccountKey" in text or "'it's" in text or "token = " in text or "quoted" in text


@pytest.mark.parametrize(
    "text",
    [
        "reason = AuthFail:sts:5_rsn:0", "as bob (auth:SIMPLE)", "auth:KERBEROS",
        "secret_length = X25519.secret_length",
        "wtoken = AppWindowToken{9f4ef63 token=Token{a64f992 ActivityRecord{1 u0}}}", "token=Token@1a2b3c4d",
        "TokenExpired:7", "password_length=12", "<token>", "<password></password>", "usage: login <user> <password>",
        '{"name": "host", "value": "abcd1234efgh"}', '{"value": "abcd1234efgh"}', "- name: HOST\n  value: abcd1234efgh",
        "<name>host</name><value>abcd1234efgh</value>", 'var host string = "abcd1234efgh"', "a string = 'abcd1234efgh'",
        '["auth", "login", "abcd1234"]', "f('x', 'token', 'other')", "session opened for user root by (uid=0)",
        "authentication failure; logname= uid=0 euid=0", "signal: terminated", "sign = +1", "keyboard: us",
    ],
)  # fmt: skip
def test_what_helps_to_diagnose_stays(text):
    """Classes, modes, measures, objects as Java and Android show them, markup without a secret."""
    assert scrub(text) is text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (f'token = "{S}" sent, got 401 for {S}', f'token = "{REDACTED}" sent, got 401 for {REDACTED}'),
        (f"401 for {S}: password={S}", f"401 for {REDACTED}: password={REDACTED}"),
        (f"curl -u bob:{S} h: {S}?", f"curl -u bob:{REDACTED} h: {REDACTED}?"),
        ("password=swordfish, a swordfish", f"password={REDACTED}, a swordfish"),
        ("token=12345678 and 12345678 rows", f"token={REDACTED} and 12345678 rows"),
        ("pin: 4711, room 4711", f"pin: {REDACTED}, room 4711"),
    ],
)
def test_value_that_its_name_has_told_is_redacted_everywhere(text, cleaned):
    """The same eight characters or more elsewhere in the text; words, numbers and short values are not the same."""
    assert scrub(text) == cleaned


@pytest.mark.parametrize(
    "form",
    [
        "x_token {}", "X_TOKEN {}", "apiKey {}", "x_secret '{}'", "db_password {}", "API KEY {}", "api key is {}",
        "stripe key: {}", "Stripe Key = {}", "api key: {}", "a token {}", "access_token is {}", "x-token {}",
        "git+https://{0}{0}:x-oauth-basic@github.com/a/b", "['tool', '--token', '-{}0']",
    ],
)  # fmt: skip
def test_value_without_a_sign_is_redacted(form):
    """Behind the name of a variable, a name of two words, and where a token is the user."""
    assert "VbX9mT4w" not in scrub(f"with {form.format('q7Zk2VbX9mT4wLr8')} sent")


@pytest.mark.parametrize(
    "text",
    [
        "x_token expired, 12 left", "the auth_token value 12 is old", "cache key: 9f86d081884c7d659a2feaa0c55ad015",
        "no value for key: 9f86d081884c7d659a2feaa0c55ad015", "evicting key: 9f86d081884c7d659a2feaa0c55ad015",
        "a user_key 4420616009715820 is there", "api key: missing", "stripe key: none", "private key: /etc/k/1.pem",
        "access_token 2026-11-30T08:14:22 is over", "token 12 of 512", "sort_key a1b2c3d4e5f6g7h8",
        "monkey a1b2c3d4e5f6", "max_tokens 12345678", "https://bob2:[redacted]@h", "key a1b2c3d4e5f6g7h8",
        "password is a1 and b2 for all", "max_token 1234567890", "pad_token tok12345", "total_token 12345678",
        "used_token 12345678 of 90000000", "kv_token 104857600", "access_token 12345678 is over",
        "['tool', '--token', '--verbose-output-of-all']", "['tool', '--token', '-v']",
    ],
)  # fmt: skip
def test_name_without_a_value_stays(text):
    """Prose, keys of caches, dates, numbers, paths, options."""
    assert scrub(text) is text


def test_digits_without_a_sign_are_a_password_only():
    """Behind any other name they count, or are the key of a row."""
    for name in ("db_password", "client_secret", "PG_PASSWORD"):
        assert scrub(f"with {name} 12345678 sent") == f"with {name} {REDACTED} sent"
    for name in ("stripe_key", "x_token", "password"):
        assert scrub(f"with {name} 12345678 sent") == f"with {name} 12345678 sent"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ('auth_token: "identifier"', 'auth_token: "identifier"'),
        ('unexpected_token: "identifier"', 'unexpected_token: "identifier"'),
        ("bad_token: 'endOfStatement'", "bad_token: 'endOfStatement'"),
        ('x_token: "hcauQVyzLci"', f'x_token: "{REDACTED}"'),
        ('x_token: "qzvkrwmtlpxbdnhj"', f'x_token: "{REDACTED}"'),
        ('x_token: "identifier7"', f'x_token: "{REDACTED}"'),
        ('x_token = "identifier"', f'x_token = "{REDACTED}"'),
        ('{"x_token": "identifier"}', f'{{"x_token": "{REDACTED}"}}'),
        ('db_password: "identifier"', f'db_password: "{REDACTED}"'),
        ('token: "hcauQVyzLci"', f'token: "{REDACTED}"'),
        ('token: "getUserName"', 'token: "getUserName"'),
    ],
)
def test_quoted_word_behind_a_colon_stays(text, cleaned):
    """A parser says so of what it has read; what makes no words, or is written as a value, is a secret."""
    assert scrub(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("api key: 379755465090", f"api key: {REDACTED}"),
        ('secret key = "379755465090"', f'secret key = "{REDACTED}"'),
        ("stripe key: 379755465090", "stripe key: 379755465090"),
        ("api key: missing", "api key: missing"),
        ("private key: /etc/k/1.pem", "private key: /etc/k/1.pem"),
    ],
)
def test_number_of_a_key_in_two_words_is_judged_by_both(text, cleaned):
    """An API key may be a number; of other keys there are too many numbers that are none."""
    assert scrub(text) == cleaned


@pytest.mark.parametrize(
    "value",
    [
        "omvctjpfdttyjdaxxasmjfsnokhvdsqh",
        "0485297355062309433",
        ".3ok8nxjyyqMaxj52DtfQC9.73vTFA7hU2",
        "a!73sn#0cdAE+4$(yZsR",
    ],
)
def test_value_of_one_class_without_a_sign_is_redacted(value):
    """Letters that make no words, many digits, symbols; behind a word that is no variable they stay."""
    assert scrub(f"with x_token {value}, sent") == f"with x_token {REDACTED}, sent"
    assert scrub(f"with max_tokens {value} sent") == f"with max_tokens {value} sent"


@pytest.mark.parametrize(
    "text",
    [
        "with x_token expirationOfTheSession it",
        "with x_token 10293847561 it",
        "with x_token getElementsByName(a) it",
        "with x_token 2026-11-30T08:14:22 it",
        "a stripe_key 048529735506230943 is there",
    ],
)
def test_words_and_counts_without_a_sign_stay(text):
    """A word of code, a call, a count, a time, the key of a row."""
    assert scrub(text) is text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("X-Api-Key: swordfish", f"X-Api-Key: {REDACTED}"),
        ("x-vendor-token: ab1", f"x-vendor-token: {REDACTED}"),
        ("X-Api-Key: not sent", "X-Api-Key: not sent"),
        ("X-Api-Key: missing", "X-Api-Key: missing"),
        ("api-key: swordfish", "api-key: swordfish"),
        ("token=:8f2kd93k", f"token={REDACTED}"),
        ("token::8f2kd93k", "token::8f2kd93k"),
    ],
)
def test_header_has_no_prose(text, cleaned):
    """Behind the name of a header's field follows its value; behind an equals sign a colon may begin one."""
    assert scrub(text) == cleaned


def test_value_without_a_sign_is_judged_by_its_name():
    """Behind the name of a variable it may be short; behind a word it must look random."""
    for name in ("x_token", "stripe_key", "apiKey"):
        assert scrub(f"with {name} abcd1234efgh sent") == f"with {name} {REDACTED} sent"
    for name in ("token", "api key", "cache_key", "monkey"):
        assert scrub(f"with {name} abcd1234efgh sent") == f"with {name} abcd1234efgh sent"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("token_x:abcd1234efgh", f"token_x:{REDACTED}"),
        ("Cookie: sid=abcd1234; theme=c2d3\nnext", f"Cookie: {REDACTED}\nnext"),
        ("mnemonic: abandon ability able\nnext", f"mnemonic: {REDACTED}\nnext"),
        ("with 'password=hunter22 and more", f"with 'password={REDACTED} and more"),
    ],
)
def test_value_ends_where_its_line_or_its_word_does(text, cleaned):
    """Cookies and phrases fill the line; what has no closing quote ends with the word."""
    assert scrub(text) == cleaned


@pytest.mark.parametrize(
    "value",
    [
        'ab"cd!1XyZ99',
        "ab\\cd!1XyZ99q",
        'q"1"X!y"Z\\9w#5',
        "q7Z,k2V;b!X9&m#T4",
        "))q7Zk2V$b==mX9",
        "{q7Zk2VbX9mT4w",
        "<q7Zk2VbX9mT4w",
    ],
)
def test_value_that_a_program_made_is_redacted_whole(value):
    """With quotes, backslashes and brackets in it: in JSON, as JSON in JSON, behind a sign, in a header."""
    twice = json.dumps({"body": json.dumps({"x_token": value})})
    for text in (json.dumps({"x_token": value}), twice, f"X_TOKEN={value} on", f"X-Api-Key: {value} on"):
        assert value[-6:] not in scrub(text).replace("\\", ""), text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("curl -H 'X-Api-Key: a1B2!c3D4e5f6' http://h", f"curl -H 'X-Api-Key: {REDACTED}' http://h"),
        ('{"run":"A_KEY=a1B2!c3D4e5f6","x":"y"}', f'{{"run":"A_KEY={REDACTED}","x":"y"}}'),
        ("A_KEY=a1B2!c3D4e5f6&b_key=a1B2!c3D4e5f6", f"A_KEY={REDACTED}&b_key={REDACTED}"),
        ('token=["a1B2!c3D4e5f6","b"],x', f"token={REDACTED},x"),
        ("token=<your-token>, so", "token=<your-token>, so"),
        ('token="{token}", so', 'token="{token}", so'),
        ("token=b'a1B2!c3D4e5f6', x", f"token=b'{REDACTED}', x"),
        (r"{\"token\": \"a1B2c3D4\\n\", \"x\": \"y\"}", rf"{{\"token\": \"{REDACTED}\", \"x\": \"y\"}}"),
    ],
)
def test_value_that_a_program_made_ends_with_its_quotes(text, cleaned):
    """Where the next name begins, too; placeholders stay."""
    assert scrub(text) == cleaned


def test_number_in_a_header_is_a_key():
    """No row is named in one; a short number, and the key of a cache, are."""
    assert scrub("X-Vendor-Key: 8369180132778920") == f"X-Vendor-Key: {REDACTED}"
    for text in ("X-Vendor-Key: 83691801", "X-Cache-Key: 8369180132778920", "vendorKey: 8369180132778920"):
        assert scrub(text) is text


def test_pair_of_name_and_value_in_fields_is_redacted():
    """As environments of containers and headers of HAR files are recorded."""
    env = [{"name": "X_TOKEN", "value": S}, {"name": "LANG", "value": "C"}, {"Key": "db_password", "Value": S}]

    assert bounded({"env": env})["env"] == [
        {"name": "X_TOKEN", "value": REDACTED},
        {"name": "LANG", "value": "C"},
        {"Key": "db_password", "Value": REDACTED},
    ]


_PIECES = st.sampled_from([
    "password", "Token", "API_KEY", "x-auth", "psk", "sig", "cookie", "value", "name", "string", "str", " ",
    "\n", "=", ":",
    ": ", " = ", "=>", "?=", "('", '("', '", "', "', '", "')", '")', "[", "]", "<", "</", ">", "<password>",
    "{", "}", '"',
    "'", "\\", '\\"', "--", " -p ", "-u", "curl ", "://u:", "@h", ",", ";", "a1b2c3d4e5f6g7h8i9j0", "hunter22", "ghp_",
    "sk-", "SG.", "hvs.", "AKIA", "xoxb-", "A1b2C3d4E5f6G7h8I9j0K1l2M3", "é", "\u017f", "\u212a", "İ", "- name: ",
    "\n  value: ", "Bearer ", "eyJ", ".", "_", "-",
])  # fmt: skip


@settings(deadline=None, max_examples=examples(5))
@given(st.lists(_PIECES | st.text(max_size=6), max_size=14).map("".join))
@example('setenv("API_TOKEN", "k3y9aBcDeFgHiJkLm")')
@example("redis://:s3cr3tpw@cache/0")
@example("hvs.passwordpassword")
@example("psk" + " " * 60 + ":abcd1234")
@example("pass_wd=abcd1234 sec_ret=abcd1234 api_k_ey=abcd1234")
def test_quick_check_is_never_stricter_than_the_search(text):
    """What the search would find, the quick check sees; twice is once; and the names' values are gone."""
    found = [span for span in rules._spans(text) if len(text) >= 8]
    cleaned = scrub(text)

    assert needs_scrub(text) or not found
    assert scrub(cleaned) == cleaned


KEY = "yAnz5TF+lXXJte14tci3IRZ0GgZT5uwLWPa0JtsE/Xw="
WRITTEN = {
    "netrc": [
        "machine h login bob password {}",
        "default login bob password {}",
        "machine h\n  login b\n  password {}",
    ],
    "build": ["signingKeyPassword {} for it", "storePassword '{}' for it", "with password '{}' for it"],
    "SQL": ["ALTER USER bob PASSWORD '{}'", "user identified by '{}'", 'CREATE USER b IDENTIFIED BY "{}"'],
    "name and escape": ["name: bob\\npassword: {}\\n", "a\\ntoken={}\\nb", "a\\r\\nx_token: {}"],
    "database": ["jdbc:oracle:thin:bob/{}@h:1521:x", "jdbc:oracle:oci:bob/{}@h", "postgres://bob:{}@h/db"],
    "command": ["mysql -p{} db", "useradd -p {} bob", "lftp -u bob,{} h"],
    "network": ["wpa_psk {} set", "wpa-psk {} set", 'psk="{}"'],
    "cookie": ["Cookie: a=1; session={}", "Set-Cookie: b=2; id={}", "cookie: c=3; x={}"],
}
HASHES = [
    "$apr1$Zk2VbX9m$q7Zk2VbX9mT4wLr8sD1f/.", "$y$j9T$Zk2VbX9mT4wLr8$q7Zk2VbX9mT4wLr8sD1fGhq7Zk2VbX9mT4wLr8sD1fG",
    "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$q7Zk2VbX9mT4wLr8sD1f",
    "pbkdf2_sha256$600000$Zk2VbX9mT4$q7Zk2VbX9mT4wLr8sD1fGhq7Zk2VbX9mT4wLr8=", "bob:{SSHA}q7Zk2VbX9mT4wLr8sD1fGhq7Zk2=",
]  # fmt: skip


@pytest.mark.parametrize("kind", WRITTEN)
def test_secret_of_a_file_or_a_command_is_redacted(kind):
    """As configuration, builds, databases and shells write one; also with digits last, and as JSON."""
    for form in WRITTEN[kind]:
        for secret in ("S3cr3tPassw0rd", "hunter2secret"):
            assert secret not in scrub(f"ran {form.format(secret)} and went on"), form


@pytest.mark.parametrize("text", HASHES)
def test_hash_of_a_password_is_redacted(text):
    """Of web servers, of systems, of frameworks."""
    assert "D1f" not in scrub(f"has {text} there")


@pytest.mark.parametrize("form", ["preshared key: {}", "wg set wg0 private-key {}", "client-key-data: {}"])
def test_key_of_two_words_is_redacted(form):
    """Of WireGuard, of Kubernetes."""
    assert KEY not in scrub(form.format(KEY))


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGINRSA PRIVATE KEY-----\nMIIEq7Zk2VbX9mT4", "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nq7Zk2VbX9mT4",
        "Private-Lines: 1\nq7Zk2VbX9mT4\nPrivate-MAC: 9f86",
        "-----  BEGIN OF_MY-OWN PRIVATE KEY -----\nq7Zk2VbX9mT4\n----- END OF_MY-OWN PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_private_key_in_other_frames_is_redacted(text):
    """Without a space, of SSH2, of PuTTY, with blanks."""
    assert "q7Zk2VbX9mT4" not in scrub(text)


@pytest.mark.parametrize(
    "text",
    ["no password 'required' for it", "the password is wrong for bob", "the login bob had a password prompt twice"],
)
def test_sentence_about_a_password_stays(text):
    """Without a value."""
    assert scrub(text) is text
