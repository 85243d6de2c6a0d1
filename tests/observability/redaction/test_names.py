"""Names: those of secrets, those that are secret if their value is, and measures of secrets."""

from __future__ import annotations

import pytest

from hearthnet.observability.records.record import bounded, encode_plain
from hearthnet.observability.redaction.names import (
    LIKELY,
    OPEN,
    PLAIN,
    SECRET,
    VARIABLE,
    could_be_secret,
    is_made,
    is_meant,
    judge,
    last_word_is_secret,
    looks_random,
    makes_words,
    quick_look,
)
from hearthnet.observability.redaction.rules import REDACTED, is_secret, is_told, kind_of, scrub

RANDOM = ["a1b2c3d4e5f6g7h8i9j0", "9f86d081884c7d659a2feaa0c55ad015", "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
          "7s5ww9j1mynsin", "fc068c62:ef92b09e",
          "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="]  # fmt: skip
NOT_RANDOM = [
    "user:1234:profile", "users-by-name-2026-11-30", "/etc/ssl/private/server2048.key", "server-key-number-2048a.pem",
    "https://example.com/a1b2c3d4e5f6g7h8i9j0", "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "short1", "1234567", "us-east-1",
    "2026-11-30T08:14:22", "10.251.42.84:57069", "getElementsByClassName", "isHttpServer", "lowercaseletters",
    "a-name-without-any-digit-in-it", "two words a1b2c3d4e5f6g7h8", "",
]  # fmt: skip
COULD_BE = [
    "sk_q5rGw)Gv5$D4KaH9YkETFFA",
    "263734296171163271222",  # more digits than a number of 64 bits has
    "alice2026rain",
    "a1b2c3d4",
    "ocaJ7h7+ub+2Rxkmp/K=",
    "ab12-cd34-ef56",
    "WHCUvjgBhfRONdAOFbop",
    "BHOUSndjuEHaosxxruxs",
    "omvctjpfdttyjdaxxasmjfsnokhvdsqh",
    "bMiuqxQZ-NQZe-Nq1r-CSu2-oawWNnUumVKL",
    "rcXiQiiu",
    "NVlLqbtX",
    "R%fv0kKus",
    "HHE-E2D-BIZ-2IN",
    "x}<Y#sUY)zNt%W",
    "oxxElnA_",
    "R_DHobnfO",
    "RNAtnuX.y",
    "sqJ-uM8-c.4",
    "ftz_w3f8_9",
    "OYLkdy==",
    "bTF+NZTc",
    "thsdoA^Z",
    "4s=vsae1+0lb",
]
WORDS = [
    "getElementsByClassName", "skipkeys", "subquery", "McDonalds", "XMLHttpRequest", "lowercaseletters", "keyboard",
    "PKey.__new__(PKey", "Foo.Bar(x)[1]", "self._pkey._pkey", "user-by-name-of-it", "US-EAST-WEST-NORTH", "a_1_b_2_c",
    "user-by-name-v2-64bit-30", "0|com.example.app|121|null|10111", "2026-11-30T08:14:22", "('purelib'", ":py:class:",
    "arn:aws:iam::123456789012:role/of-the-house", "Ab3.cache.example.com:6380", "i.example.org/c8K2",
    "redirect_uri_mismatch",
    "/usr/lib/x86_64-linux-gnu/libcrypt", "org.apache.hadoop.hdfs", "F7-A8-B9", "ABCDEFGH",
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "psk", "wpa_psk", "csrf", "XSRF-Token", "csrftoken", "totp", "totp_secret", "PHPSESSID", "JSESSIONID",
        "connect.sid", "ASP.NET_SessionId", "unseal_key", "unsealKeys", "master_key", "webhook_key", "sharedKey",
        "PresharedKey", "storepass", "keypass",
    ],
)  # fmt: skip
def test_more_names_of_secrets(name):
    """Keys of networks and vaults, cookies of sessions, tokens of forms."""
    assert is_secret(name)
    assert scrub(f"{name}=abcd1234efgh") == f"{name}={REDACTED}"


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_KEY", "AZURE_OPENAI_KEY", "stripeKey", "AccountKey", "sdk_key", "license-key", "X-Amz-Signature",
        "sig", "signature", "_gitlab_session", "laravel_session", "STRIPE_KEY_2", "openaikey", "mailgun.key",
    ],
)  # fmt: skip
def test_names_that_are_secret_if_their_value_is(name):
    """What looks random under such a name is redacted, in a text and as a field; anything else is not."""
    assert kind_of(name) in (OPEN, LIKELY, VARIABLE)
    for value in RANDOM:
        assert REDACTED in scrub(f"with {name}={value}")
        assert value not in scrub(f"with {name}={value}")
        assert bounded({name: value}) == {name: REDACTED}
        assert encode_plain({name: value}) is None
    for value in ["none", "primary", "us-east-1", "/etc/keys/2"]:
        assert scrub(f"with {name}={value}") == f"with {name}={value}"
        assert bounded({name: value}) == {name: value}


@pytest.mark.parametrize(
    "name",
    [
        "key", "keys", "cache_key", "primaryKey", "foreign_key", "sort-key", "partition_key", "idempotency_key",
        "public_key", "lookup_key", "object_key", "session", "secret_length", "password_policy", "auth_method",
        "auth_mode", "token_ttl", "password_expiry", "design", "signal", "keyboard", "assignment", "monkey_business",
    ],
)  # fmt: skip
def test_names_of_no_secrets(name):
    """Keys of dictionaries, caches and tables, public ones, and measures of secrets."""
    assert kind_of(name) == PLAIN
    for value in RANDOM[:2]:
        assert scrub(f"with {name}={value}") == f"with {name}={value}"
        assert bounded({name: value}) == {name: value}


@pytest.mark.parametrize("value", RANDOM)
def test_values_that_look_random(value):
    """Hexadecimal, base64, UUIDs, letters and digits."""
    assert looks_random(value)
    assert is_told("x_key", value)


@pytest.mark.parametrize("value", NOT_RANDOM)
def test_values_that_do_not(value):
    """Paths, addresses, ids of ours, words, numbers."""
    assert not looks_random(value)
    assert not is_told("x_key", value)


@pytest.mark.parametrize("value", COULD_BE)
def test_values_that_could_be_secrets(value):
    """Of a key that belongs to something: many digits, eight characters, letters that make no words."""
    for name in ("stripe_key", "STRIPE_KEY", "stripeKey", "stripe key"):
        assert is_told(name, value)
        assert value not in scrub(f"{name}={value}")
        assert value not in scrub(f"got a {name}: {value} from h")
    for name in ("signature", "cache_key", "key", "max_tokens", "token_count"):
        assert not is_told(name, value)
        assert scrub(f"{name}={value}") == f"{name}={value}"


def test_random_value_that_begins_like_a_path_is_none():
    """One in sixty-four keys in base64 begins with a slash."""
    value = "/e6cwlx9mgofu5v/1nfqfklmm+n3dsf/ye+ny6u7"

    assert scrub(f"STRIPE_KEY={value}, sent") == f"STRIPE_KEY={REDACTED}, sent"
    assert scrub(f"max_tokens={value}") == f"max_tokens={value}"


@pytest.mark.parametrize("value", WORDS)
def test_values_that_could_not(value):
    """Words, names of things in code, paths, and what is short or has too few signs."""
    for name in ("stripe_key", "STRIPE_KEY", "x_key"):
        assert not is_told(name, value)
    assert scrub(f"stripe_key={value}") == f"stripe_key={value}"


def test_key_of_a_store_of_files_is_one():
    """`AZURE_STORAGE_KEY` opens an account; a cache's key is the name of an entry."""
    value = "mRD2/9ajqSdO2+ak7WhxjIckoysba/eCvDGFkubqugrrEaOb7z488uporU6gXrZXBPoERTbO979IRhvHlCsBnPk2=="

    assert scrub(f"AZURE_STORAGE_KEY={value}") == f"AZURE_STORAGE_KEY={REDACTED}"
    assert scrub(f"storage_cache_key={value}") == f"storage_cache_key={value}"


@pytest.mark.parametrize("value", ["10293847", "20261130081422281000", "customer1234567", "shard0000012"])
def test_keys_of_rows_and_of_entries_stay(value):
    """Numbers, and what programs number: tables, queues and caches have more keys than vendors."""
    for name in ("user_key", "press key", "customerKey", "STORE_KEY"):
        assert bounded({name: value}) == {name: value}
        assert scrub(f"with {name}={value}") == f"with {name}={value}"
        assert scrub(f"got a {name}: {value} from h") == f"got a {name}: {value} from h"


@pytest.mark.parametrize(
    "name", ["Kafka key", "redis_key", "S3 key", "s3Key", "entity_key", "record key", "date_key", "shard_key",
             "task_key", "trace_key", "span_key"],
)  # fmt: skip
def test_keys_of_stores_stay(name):
    """Those of entries, messages, objects and rows, whatever they are; of another store they are none."""
    for value in ("10293847", "img20240101.jpg", "a1b2-c3d4-e5f6", RANDOM[1], RANDOM[2]):
        assert bounded({name: value}) == {name: value}
        assert scrub(f"with {name}={value}") == f"with {name}={value}"
    assert kind_of("s4_key") == kind_of("node2_key") == LIKELY


@pytest.mark.parametrize(
    "name", ["max_tokens", "token_count", "tokens_in", "token_limit", "sort_key", "password_length"]
)
def test_numbers_of_plain_names_stay(name):
    """Whatever they count, and however many digits they have."""
    for number in ("512", "12345678", "20261130081422"):
        assert scrub(f"{name}={number}, x") == f"{name}={number}, x"
        assert scrub(f'"{name}": {number}') == f'"{name}": {number}'


def test_bytes_and_other_values_of_open_names():
    """Bytes of a key are redacted; a number, a flag or nothing says more than it tells."""
    assert bounded({"node2_key": bytes(32)}) == {"node2_key": REDACTED}
    assert bounded({"x_key": 7, "y_key": None, "z_key": True}) == {"x_key": 7, "y_key": None, "z_key": True}


def test_secret_names_stay_secret_whatever_the_value():
    """A flag under the name of a secret is not worth a rule."""
    assert kind_of("password") == SECRET
    assert is_told("password", True)


def test_same_name_with_another_value_is_judged_anew():
    """That a key was harmless once is not remembered where its value decides."""
    assert encode_plain({"openai_key": "default"}) == b'{"openai_key":"default"}'
    assert encode_plain({"openai_key": RANDOM[0]}) is None
    assert encode_plain({"name": "x", "value": "abcd1234"}) is not None
    assert encode_plain({"name": "x_token", "value": "abcd1234"}) is None


@pytest.mark.parametrize("value", ["9223825212976627", "128229051977314813", "k-OUWH_T", "0485297355062309433"])
def test_value_of_a_variable_may_be_a_number_or_mix_cases(value):
    """In the environment a long number is no key of a row; under a name in small letters it may be one."""
    assert kind_of("ASANA_KEY") == VARIABLE
    assert scrub(f"with ASANA_KEY={value} on") == f"with ASANA_KEY={REDACTED} on"
    assert is_told("ASANA_KEY", value)
    assert scrub(f"with asana_key={value} on") == f"with asana_key={value} on"


@pytest.mark.parametrize(
    "text",
    [
        "VENDOR_KEY=056333108525", "VENDOR_KEY=1700000000123456", "VENDOR_KEY=1700000000123456789",
        "VENDOR_KEY=20261130081422281000", "VENDOR_KEY=user.created", "VENDOR_KEY=PROD-EU-2",
        "VENDOR_KEY=/etc/Key/x.PEM",
        "SORT_KEY=a1b2c3d4e5f6g7h8i9j0", "VENDOR_KEY=my-API",
    ],
)  # fmt: skip
def test_plain_value_of_a_variable_stays(text):
    """Times in microseconds, words in one case, paths, code, and what is under eight characters."""
    assert scrub(f"with {text} on") == f"with {text} on"


def test_bytes_of_a_variable_are_judged_by_their_length():
    """Bytes are no words; eight of them are a key."""
    assert is_told("VENDOR_KEY", b"\x00" * 8)
    assert not is_told("VENDOR_KEY", b"short")


def test_value_of_a_variable_ends_with_white_space():
    """Quotes, commas and brackets are among the signs of a password that a program made; names behind it stay."""
    assert scrub("""X_TOKEN=sk_>OBxP07>:vf"'tPoYbHQo8[w/>5o& on""") == f"X_TOKEN={REDACTED} on"
    assert scrub("X_TOKEN=a1B2c3D4e5,Y=1") == f"X_TOKEN={REDACTED},Y=1"
    assert scrub('{"X_TOKEN=abcd1234", "Y"}') == f'{{"X_TOKEN={REDACTED}", "Y"}}'


def test_key_of_a_service_in_the_environment_is_open():
    """What `REDIS_KEY` has is a password, or the name of an entry; in small letters it is an entry's."""
    value = "kkHzkUbV46ZDfSMu9oIT5PKgl69QOXIYtNww"
    assert scrub(f"AZURE_REDIS_KEY={value}") == f"AZURE_REDIS_KEY={REDACTED}"
    assert scrub("REDIS_KEY=user:1234:profile") == "REDIS_KEY=user:1234:profile"
    for name in ("redis_key", "CACHE_KEY", "PUBLIC_KEY"):
        assert kind_of(name) == PLAIN


def test_number_behind_a_name_of_one_word_is_none_of_its_words():
    """`userkey2` is the second of its kind."""
    assert kind_of("OPENAIKEY_2") == VARIABLE
    assert kind_of("userkey2") == LIKELY


KINDS = {
    PLAIN: (
        "key_2 keys session s3_key x_s3_key dedup_key de_dup_key pub_key pubkey_key mem_cache_key memcache_key"
        " token_usage per_token per_token_ms tokens max_token_limit first_token_ms password_length length session_id"
        " sessionId secret_key_length x_2 _2 k my_sort_key"
    ),
    SECRET: "token_x x_token_limit user_session_id apikeys connect.sid access.tokens id_tokens idTokens",
    OPEN: "my_session sig x_sig signature signature_2",
    LIKELY: "stripe_key_2 s3_x_key cache_store_key publickey keyboard_keys a_keys",
    VARIABLE: "STRIPE_KEY_2 KEY2_KEY",
}
# Of each pair the first is one, and the second, with little less of it, is none.
BOUNDS = {
    looks_random: [
        ("a1b2c3d4e5f6", "a1b2c3d4e5f"), ("abcdefgh1jklmnopqrst", "abcdefgh1jklmnopqrs"),
        ("a1b2cdefghij", "a1bcdefghijk"), ("abcdefghi1b2", "abcdefghi1bc"),
        ("abcdefg1-2-3-4-a1b", "abcdefg-1-2-3-4"),
        ("a1" * 128 + " ", "a1" * 127 + "a "), ("a1b2c3d4-----------", "1a23456-abcdefg-8901"),
        (b"12345678", b"1234567"),
    ],
    could_be_secret: [
        ("123456789012345678901", "12345678901234567890"), ("'a1b2c3d4'", "'a1b2c3d'"), ("rcXiQiiu", "rcXiQii"),
        ("bcdfghjk", "bcdfghj"), ("bcdfghjk", "theother"), ("ab1-cd2-ef3", "ab1-cd2-ef"), ("ab1-cd2-ef3", "a1-b2-c3"),
        ("ab-12-cd#e", "Ab3#"), ("Ab3#Ab3#", "Ab3#Ab3"), ("a1b2c3d4", "a b1c2d3e4"), ("AAAAbb==", "AAAbbb="),
        ("8ABCDEFGHJKMNPQRSTVWXYZ012", "7ABCDEFGHJKMNPQRSTVWXYZ012"), (b"12345678", b"1234567"),
        ("aa" + "b" * 260, "the" * 90), ("xqz-jvkwqxz-", "xqz-jvk-wqx"), ("xqz-jvkwqxz-qxz", "the-otherof-all"),
        ("xqzj-kwqxzvq", "xqzj-kwqxzv"), ("ab12-cd34-ef56-gh78", "abc1-abc2"), ("xqzj-kwqxzvq", "the-the-the-the"),
        ("xqzj-kwqxzvq", "there-there-there-there-there-there-bcdfghjk"), ("xqzj-kwqxzvq", "xqzjvkwqxzv.pem"),
        ("Theother1", "theother1"),
    ],
    is_made: [
        ("aaA0bbBB", "aaA0bbbb"), ("aA0#aA0#", "aA0#aA0"), ("aA0-aA0a", "aA0:aA0a"), ("a1!bcdefghij", "a1!bcdefghi"),
        ("aB#cD#eF#gHi", "aB#cD#eF#gH"), ("aB#cD#eF#gHi", "aB#cD#eFfgHi"), ("aaB-bB-c.Dd-", "aab-bb-c.dd-"),
        ("ab12!~xYz", "abABab12"), ("a~A~0~a~", "a~A~a~a~"),
        ("abcdefg!hijk1", "abcdefghijkl1"), ("aA#bB#cC#dD#", "aaa##bbb#ccc"), ("aB#cD#eF#gHij", "aB#cD#eFggHij"),
        ("aA0#aA0#a", "aA#aA#aA#"), ("aB1BaBaB", "aBaBaBaB"),
    ],
    makes_words: [
        ("getUserName", "GoToIt"), ("getUserByIt", "aBcDeF"), ("abAbab", "aBcD"), ("getUserToA", "getUseToA"),
        ("getUserNamesOf", "getUserNameOf"),
        ("thththqx", "ththqxqx"), ("ththqxq", "ththqxqx"), ("thethethexqx", "thethexqxqxq"), ("theother", "bcdfghjk"),
        ("bananarama", "aabbhhjj"), ("thththqx", "ththtqxq"), ("thethethethxqx", "thethethexqxq"),
        ("getUserToA", "getUserToAll"), ("thethethexqx", "thethetexqxq"),
    ],
    lambda value: is_meant(VARIABLE, value): [
        ("123456789012345", "12345678901234"), ("150000000000000000", "1500000000000000"),
        ("1400000000000000", "1600000000000000"), ("202691300814221", "202611300814221"),
        ("thing-API", "the-API"), ("aaaa-BBB", "aaaa-bbb"), ("thing-API", "/thing/API/x"), ("thing-API", "(thing-API)"),
        ("thing-API", "thing(API)x"), (b"12345678", b"1234567"),
    ],
    last_word_is_secret: [("x_token", "token_x"), ("x_key", "key_x"), ("apiKey", "apiKeys2")],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_names(kind):
    """By words and pairs of words, by the last one, by the one before it, and by case."""
    assert {name: judge(name, (), ()) for name in KINDS[kind].split()} == dict.fromkeys(KINDS[kind].split(), kind)


def test_own_names_are_secret_within_others():
    """Where all of their words are there, in order; by themselves they are nothing."""
    own = ("gate",), ("_gate_code_",)

    assert [judge(name, *own) for name in ("gateCode", "my_gate_code_2", "gate", "code_gate", "gate_codes")] == [
        SECRET, SECRET, PLAIN, PLAIN, PLAIN,
    ]  # fmt: skip
    assert judge("gateCode", (), own[1]) == PLAIN  # the quick look does not see it


@pytest.mark.parametrize("judged", BOUNDS, ids=lambda judged: judged.__name__)
def test_bounds_of_values(judged):
    """Lengths, changes, symbols, signs between words: a value that has just enough, and one that has not."""
    for one, other in BOUNDS[judged]:
        assert judged(one), one
        assert not judged(other), other


def test_value_of_a_plain_name_is_never_meant():
    """However random it is."""
    assert not any(is_meant(PLAIN, value) for value in [*RANDOM, *COULD_BE, bytes(32)])


def test_quick_look_sees_each_word_by_a_letter_that_is_rare():
    """It stops at few letters, and passes words with the same ones."""
    look = quick_look(("gate", "77"))
    heads = {branch[0] for branch in look.pattern.split("|") if branch[1:4] == "(?:"}

    assert heads <= set("jkbhpcsg7")
    for text in ("x_key: 1", "a token = 1", "auth=1", "gate 77: 1", "['a', 'b']", "masterauth x"):
        assert look.search(text), text
    for text in ("the path: x", "a sign", "its ration = 1", "a rate: 1", "(a, b)", "author", "x_key"):
        assert look.search(text) is None, text


def test_half_of_a_made_password_changes_its_kind_of_character():
    """At four of eight it is one, at three a word with a number."""
    assert is_made("aaA0bbBB")
    assert not is_made("aaA0bbbb")
