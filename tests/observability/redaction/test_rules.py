"""The check of every text: which ones are searched closely, at which sizes, and what is remembered."""

from __future__ import annotations

import random
import string

import pytest

from hearthnet.observability.redaction import rules, values
from hearthnet.observability.redaction.rules import (
    REDACTED,
    active,
    is_secret,
    is_worth_registering,
    needs_scrub,
    register_secrets,
    scrub,
    spellings,
)
from hearthnet.observability.redaction.told import Known, known

SHORT = [
    "see http://example.org/x", "bob@example.com wrote: hello", "x = 1, y = 2", "masterly done and dusted",
    "net up and running now", "my text without any of them, at all", "x < y and so on", "at 12:5432 of it",
    "a few words without any sign, and a name of nothing", "{'a': 1, 'b': 'two'}", "<b>bold</b>", "a:*b of c and d",
    "http://h/x and ftp://y: 3", "mask: *:* of all", "net: everything is up", "masterful=1 of the two or more",
    "an oracle: none", "x@y: see oracle", "the path: x", "as a step: 12", "net use it",
    "net use: of it", "a:5432:b", "x:*:y",
]  # fmt: skip
LONG = [
    "a line about nothing: x = 1, at 12:30:45\n" * 14, "prose about nothing in particular, " * 20,
    "bob@h: http is up " * 40, "<a> b <c> " * 80, "f('a', b) of it; " * 40, "net use: of it " * 40,
    "of it, 0.1 of all " * 30,
]  # fmt: skip
SEPARATED = {
    ":": "with x_token:abcd1234efgh",
    "=": "with x_token=abcd1234efgh",
    '"': 'f("x_token", "abcd1234efgh")',
    "'": "f('x_token', 'abcd1234efgh')",
    "<": "<password>abcd1234efgh</password>",
}


@pytest.fixture(autouse=True)
def nothing_remembered():
    """Each test starts without texts that were seen, and ends without registered values and settings."""
    active.clean.clear()
    yield
    rules.configure()
    rules.forget_secrets()


@pytest.mark.parametrize("text", SHORT + LONG, ids=lambda text: text[:30])
def test_ordinary_text_is_not_searched_closely(monkeypatch, text):
    """That would cost more than all else: a sign, or a word, that goes with a secret is not enough."""
    monkeypatch.setattr(rules, "_named_spans", None)
    monkeypatch.setattr(rules, "directed", None)

    assert not needs_scrub(text)


def test_first_text_after_a_change_is_not_searched_closely(monkeypatch):
    """It waits for the expressions, which then take the place of what made them."""
    rules.register_secrets(["orchid-lantern-4471"])
    rules.configure(["moon-phase"])
    monkeypatch.setattr(rules, "_named_spans", None)
    for text in ("a text of some words: it has a dot.", "a long one. " * 60 + "with x: 1"):
        assert not needs_scrub(text)

    assert active.shapes is not None
    assert active.search == active.shapes.all.search
    assert active.search_dotted == active.shapes.dotted.search
    assert active.search_words != rules._search_words_first
    assert active.look != rules._look_first


def test_rules_need_no_running_telemetry():
    """What it makes anew in a child process, the rules have from the start."""
    own = rules.Rules()
    own.secrets.add("orchid-lantern-4471")

    assert own.compiled().all.search("a orchid-lantern-4471 b") is not None
    assert own.search == own.compiled().all.search


@pytest.mark.parametrize("separator", SEPARATED)
def test_text_with_one_kind_of_sign_is_searched(separator):
    """Each is enough."""
    assert set(SEPARATED[separator]) & set(SEPARATED) == {separator}
    assert scrub(SEPARATED[separator]) == SEPARATED[separator].replace("abcd1234efgh", REDACTED)


@pytest.mark.parametrize(
    "text",
    ["oracle:thin:bob/S3cretPw@h", "http://u:S3cretPw@h", "masterauth S3cretP", "dapi0123456789abcdef012345",
     "s.aB3dE5gH7jK9mN1pQ3sT5vW7", "otp=4711", "h:5432:db:bob:S3cr", "*:*:*:bob:S3cretPassw"],
)  # fmt: skip
def test_shortest_text_with_a_secret_is_redacted(text):
    """With no sign more than it needs; a character less is no secret."""
    assert REDACTED in scrub(text)
    if "@" not in text and "*" not in text:
        assert scrub(text[:-1]) == text[:-1]


def test_longest_text_that_is_searched_for_settings():
    """Of up to 512 characters, with a separator."""
    text = "x=1 masterauth S3cretPw9x ".ljust(513, "w")

    assert scrub(text[:512]) == text[:512].replace("S3cretPw9x", REDACTED)
    assert scrub(text) == text


def test_text_that_only_looks_like_one_with_a_secret_is_remembered():
    """The quick check asks for a close search, which finds nothing: that is done once."""
    texts = ("Basic information about it", "bearer of bad news", "task-0123456789abcdef0123", "sort-key, with -p of it")
    rough = [text for text in texts if needs_scrub(text)]
    assert rough
    for text in rough:
        assert scrub(text) is text
        assert text in active.clean
        assert not needs_scrub(text)


@pytest.mark.parametrize("secret", ["", " password=hunter22"])
def test_texts_of_up_to_128_characters_are_remembered(secret):
    """As they are, and as they are without their secrets."""
    tail = secret.replace("hunter22", REDACTED)
    for length in (128, 129):
        start = "x" * (length - len(tail))
        assert scrub(start + secret) == start + tail
        assert (start + tail in active.clean) == (length == 128)


@pytest.mark.parametrize("secret", ["", " password=hunter22"])
def test_memory_of_texts_is_filled_and_then_emptied(monkeypatch, secret):
    """It holds as many as it may, and is not emptied before."""
    monkeypatch.setattr(rules, "_MAX_REMEMBERED", 8)
    for number in range(8):
        scrub(f"a number {number}{secret}")
    assert len(active.clean) == 8
    scrub(f"one more number{secret}")
    assert len(active.clean) == 1


def test_memory_of_names_is_filled_and_then_emptied(monkeypatch):
    """It holds as many as it may, and is not emptied before."""
    monkeypatch.setattr(rules, "_MAX_REMEMBERED", 8)
    monkeypatch.setattr(active, "verdicts", {})
    for number in range(8):
        assert not is_secret(f"name{number}")
    assert len(active.verdicts) == 8
    assert is_secret("password")
    assert active.verdicts == {"password": rules.kind_of("password")}


def test_values_of_another_thread_cost_no_search(monkeypatch):
    """What is known elsewhere, and what is not in this text."""
    monkeypatch.setattr(rules, "_named_spans", None)
    with Known(["h4zel-nut-9921"]):
        assert not needs_scrub("a harmless text")
    known[-1] = ("h4zel-nut-9921",)
    try:
        assert not needs_scrub("a text with h4zel-nut-9921")
    finally:
        del known[-1]


def test_patterns_are_searched_in_every_text():
    """What matches one is replaced; empty matches and groups without one are nothing, neighbours are two."""
    rules.configure([], [r"AA\d+", r"BB\d", r"q(z*)", r"ticket(-\w+)? of", r"A1BB"])

    assert not needs_scrub("a harmless text")
    assert scrub("see AA1BB2, AA34 and so on") == f"see {REDACTED}, {REDACTED} and so on"
    assert scrub("see AA1CC2BB2BB3 so") == f"see {REDACTED}CC2{REDACTED}{REDACTED} so"
    assert scrub("quiet, a ticket of it") == "quiet, a ticket of it"
    assert scrub("qzz and ticket-7 of it") == f"q{REDACTED} and ticket{REDACTED} of it"


def test_names_without_a_word_are_no_names():
    """Signs alone say nothing; the others count."""
    rules.configure(["--", "gate code"])

    assert is_secret("gateCode")
    assert not is_secret("name")
    assert scrub("with gate_code=4711x now, in a long text: " + "x, " * 200).count(REDACTED) == 1


def test_text_that_is_never_done_is_replaced_whole():
    """Where each round finds a secret in what the last one has left, nothing is risked."""
    value = "".join(random.Random(3).choices(string.ascii_letters, k=2_000))

    assert scrub(f"requirepass {value[:300]} x") == f"requirepass {REDACTED} x"
    assert scrub(f"requirepass {value} x") == REDACTED


def test_value_at_the_beginning_of_a_text_is_found_by_its_name_further_on():
    """And every time that it is there."""
    value = "h4zel-nut-9921"

    assert (
        scrub(f"{value}{value}: {value}, password={value}") == f"{REDACTED}{REDACTED}: {REDACTED}, password={REDACTED}"
    )


@pytest.mark.parametrize(
    ("value", "is_worth"),
    [
        ("A1b2C3d4", True), ("A1b2C3d", False),
        ("abcabcabcabcabc1", True), ("abcabcabcabcabca", False),
        ("größerenhaus", True), ("größerenhau", False), ("größerenHau", True), ("lanternorchids", False),
        ("abc-def-ghi-1234", True), ("abc-def-ghi-123", False),
        ("abc.def.ghi.jkl-1234", False), ("1234567890123456789", False), ("12345678-12345678", True),
        ("a1" + "b2c3" * 4_095 + "d4", True), ("a1" + "b2c3" * 4_095 + "d45", False),
        ("changeMe", False), ("/usr/lib/of/it", False),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_bounds_of_values_that_can_be_searched_for(value, is_worth):
    """Eight characters, of them four different; a word of twelve letters; what is no host of sixteen; 16 KiB."""
    assert is_worth_registering(value) == is_worth
    assert register_secrets([value]) == is_worth


def test_number_of_values_is_bounded_over_all_calls():
    """Those that come too late are not known; the others are, however they came."""
    many = [f"value-{number:04}-{number * 7919 % 10_007:05}" for number in range(300)]

    assert register_secrets(many[:200]) == 200
    assert register_secrets(many[:200]) == 200
    assert register_secrets(many[200:]) == 256
    assert scrub(f"{many[255]} and {many[256]}") == f"{REDACTED} and {many[256]}"


SPELLINGS = {
    "pä/s w\"'\\": r"""
        pä/s w"'\ | p\u00e4/s w\"'\\ | pä/s w\"'\\ | pä/s w"\'\\
        p%C3%A4%2Fs%20w%22%27%5C | p%C3%A4/s%20w%22%27%5C | p%C3%A4%2Fs+w%22%27%5C | p%c3%a4%2fs%20w%22%27%5c
        cMOkL3MgdyInX | DDpC9zIHciJ1 | ww6QvcyB3Iidc""",
    bytes(range(248, 256)) + b"'z": r"""
        f8f9fafbfcfdfeff277a | F8F9FAFBFCFDFEFF277A | f8:f9:fa:fb:fc:fd:fe:ff:27:7a | \xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff'z
        248, 249, 250, 251, 252, 253, 254, 255, 39, 122
        +Pn6+/z9/v8ne | -Pn6-_z9_v8ne | j5+vv8/f7/J3 | j5-vv8_f7_J3 | 4+fr7/P3+/yd6 | 4-fr7_P3-_yd6""",
    b"\x01\x02\x03\x04": r"01020304 | 01:02:03:04 | 1, 2, 3, 4 | \x01\x02\x03\x04",
    "a1B!": "",
}


@pytest.mark.parametrize("value", SPELLINGS, ids=repr)
def test_spellings_of_a_secret(value):
    """In URLs, in JSON and Python, in base64 behind zero to two bytes, in hexadecimal, as a list: none under eight."""
    lines = SPELLINGS[value].strip().splitlines()

    assert spellings(value) == {spelling.strip() for line in lines for spelling in line.split(" | ")}


def test_pivots_are_those_of_most_values_and_then_the_rarest():
    """Each more costs every search."""
    first = len(rules._FIRST)

    assert rules._choose_pivots(["eat%ores"])[first:] == "%"
    assert rules._choose_pivots(["eatQ1234", "eat%4321"])[first:] == "4"
    assert rules._choose_pivots(["eat ores:"])[first:] == "r"
    assert rules._choose_pivots(["eat-ores"])[first:] == ""


@pytest.mark.parametrize(
    "token", ["0123456789abcdef0123456789abcdef-us12", "0123456789abcdef_glpat-0123456789abcdef0123"]
)
def test_what_looks_like_a_token_within_one_is_not_checked(monkeypatch, token):
    """So the time stays linear in the length of the text."""
    checked = []
    check = rules._secret_of
    monkeypatch.setattr(rules, "_secret_of", lambda text, match: checked.append(match) or check(text, match))

    assert list(rules._shaped_spans(f"sent ghp_{token} on")) == [(9, 9 + len(token))]
    assert len(checked) == 1


def test_lists_are_searched_where_a_text_may_have_one():
    """The quick look has told; what it has not told is not searched for."""
    text = "ran ['sshpass', '-p', 'S3cretPw9x']"

    for parts in range(values.ALL_PARTS + 1):
        assert list(rules._named_spans(text, parts)) == ([(23, 33)] if parts & values.PAIRED else [])
    assert list(rules._named_spans(text)) == [(23, 33)]
    assert list(rules._named_spans(text.replace("'", '"'))) == [(23, 33)]
    assert not needs_scrub('f("a", "b")')


def test_option_with_a_value_at_once_is_no_name():
    """Behind one dash; what follows it stays."""
    assert scrub("mysql -ppassword123 db") == f"mysql -p{REDACTED} db"
