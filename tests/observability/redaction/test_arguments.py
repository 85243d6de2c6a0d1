"""Lists of a command's arguments: as fields of a record, and as a text shows them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from hearthnet.observability.records.record import bounded
from hearthnet.observability.redaction.arguments import listed, without_secrets
from hearthnet.observability.redaction.rules import REDACTED, scrub

SECRET = "S3cretPw9x"
COMMANDS = [
    ["htpasswd", "-b", "/etc/users", "bob", SECRET],
    ["htpasswd", "-nb", "bob", SECRET],
    ["/usr/bin/htpasswd", "-cb", "users of it", "bob", SECRET],
    ["npm", "config", "set", "x_token", f"{SECRET}Zq7"],
    ["aws", "configure", "set", "aws_secret_access_key", f"{SECRET}Zq7"],
    ["mysql", "-u", "root", f"-p{SECRET}"],
    ["curl", "-u", f"bob:{SECRET}", "http://h"],
    ["sshpass", "-p", SECRET, "ssh", "h"],
    ["net", "user", "bob", SECRET, "/add"],
    ["net", "use", r"\\h\s", SECRET, "/user:bob"],
    ["xfreerdp", "/u:bob", f"/p:{SECRET}", "/v:h"],
    ["sqlplus", "-s", f"bob/{SECRET}@db"],
    ["redis-cli", "config", "set", "requirepass", SECRET],
    ["redis-cli", "config", "set", "masterauth", SECRET],
    ["redis-cli", "-h", "x", "AUTH", SECRET],
    ["mysqladmin", "-u", "root", "password", SECRET],
    ["nmcli", "dev", "wifi", "connect", "home", "password", SECRET],
    ["wpa_passphrase", "home", SECRET],
    ["rabbitmqctl", "change_password", "bob", SECRET],
    ["mc", "alias", "set", "m", "http://h:9000", "minio", SECRET],
    ["gh", "secret", "set", "X", "--body", SECRET],
    ["openssl", "passwd", "-6", SECRET],
    ["cmdkey", "/add:h", "/user:bob", f"/pass:{SECRET}"],
    ["samba-tool", "user", "create", "bob", SECRET],
    ["poetry", "config", "http-basic.x", "bob", SECRET],
    ["vault", "login", SECRET],
    ["ldappasswd", "-s", SECRET, "x"],
    ["sh", "-c", f"echo bob:{SECRET} | chpasswd"],
    ["tool", "--passphrase", SECRET, "--verbose"],
]
SHOWN = {
    "repr": repr,
    "tuple": lambda items: repr(tuple(items)),
    "bytes": lambda items: repr([item.encode() for item in items]),
    "json": lambda items: json.dumps({"argv": items}),
    "tight json": lambda items: json.dumps(items, separators=(",", ":")),
    "indented json": lambda items: json.dumps(items, indent=2),
    "json in json": lambda items: json.dumps({"m": json.dumps(items)}),
    "error": lambda items: str(subprocess.CalledProcessError(1, items)),
    "long text": lambda items: f"{items} {'and so on ' * 60}",
}


@pytest.mark.parametrize("shown", SHOWN)
def test_secret_in_a_list_that_a_text_shows_is_redacted(shown):
    """However it is written; the command stays, the text after it too, and twice is once."""
    for command in COMMANDS:
        cleaned = scrub(f"ran {SHOWN[shown](command)}, then")

        assert SECRET not in cleaned, command
        assert command[0].rpartition("/")[2] in cleaned, command
        assert cleaned.endswith(", then")
        assert scrub(cleaned) == cleaned


@pytest.mark.parametrize("make", [list, tuple, lambda items: [item.encode() for item in items]])
def test_secret_in_a_field_of_arguments_is_redacted(make):
    """Item by item; as many as before, and the first is the command."""
    for command in COMMANDS:
        kept = bounded({"argv": make(command)})["argv"]

        assert SECRET not in str(kept), command
        assert len(kept) == len(command)
        assert REDACTED in str(kept)


def test_only_the_secret_of_an_argument_is_replaced():
    """The user before it, the option, the other arguments."""
    assert bounded(["curl", "-u", f"bob:{SECRET}", "http://h"]) == ["curl", "-u", f"bob:{REDACTED}", "http://h"]
    assert bounded(["mysql", f"-p{SECRET}", "db"]) == ["mysql", f"-p{REDACTED}", "db"]
    assert scrub(f"ran ['mysql', '-p{SECRET}', 'db']") == f"ran ['mysql', '-p{REDACTED}', 'db']"
    assert bounded(["tool", "--passphrase", "two words", "-v"]) == ["tool", "--passphrase", REDACTED, "-v"]


def test_items_that_are_no_text_keep_their_places():
    """Numbers, paths, None: they count as arguments, and stay."""
    items = ["htpasswd", "-b", Path("/etc/users"), 7, SECRET, None]

    assert without_secrets(items, lambda line: [(line.index(SECRET), line.index(SECRET) + len(SECRET))]) == [
        *items[:4],
        REDACTED,
        None,
    ]
    assert (
        scrub(f"ran ['htpasswd', '-b', 'users', 7, '{SECRET}']") == f"ran ['htpasswd', '-b', 'users', 7, '{REDACTED}']"
    )


def test_long_argument_is_replaced_to_its_end():
    """What is searched of an argument is bounded; of a secret that goes on behind that, nothing is left."""
    kept = bounded(["sshpass", "-p", "S3cret" * 200, "ssh"])

    assert kept == ["sshpass", "-p", REDACTED, "ssh"]


@pytest.mark.parametrize(
    "items",
    [
        ["GET", "/users", "200"], ["a", "b", "c"], ["tool", "-v", "--password"], ["net", "user"],
        ["net", "user", "bob"],
        ["user_token", "created_at", "updated_at"], ["ls", "-la", "/etc/passwd"], ["vault", "login", "-method", "oidc"],
        ["key", "value", "name"], ["cache_key", "a1b2c3d4e5f6", "b"],
    ],
)  # fmt: skip
def test_other_lists_stay(items):
    """Words, names of columns, commands without a secret: the very same items, and the same text."""
    assert bounded(items) == items
    assert scrub(f"ran {items} so") == f"ran {items} so"


def test_list_within_a_list_is_searched_once():
    """What was searched is passed over; a list that is cut, or never ends, is searched as far as it goes."""
    seen = []

    def spans_of(line):
        seen.append(line)
        return []

    assert list(listed("['a', '-b', 'c'] and ['d', '-e', 'f', 'g", spans_of, lambda _: None)) == []
    assert seen == ["a -b c", "d -e f"]


def without(*items: object) -> list[object]:
    """The items without the places where their line has the secret."""
    return without_secrets(items, lambda line: [match.span() for match in re.finditer(SECRET, line)])


def test_secret_of_an_item_is_replaced_where_it_is():
    """At its beginning, its end, in the middle; but of a text of its own, which is searched by itself."""
    assert without(SECRET, "a", "b") == [REDACTED, "a", "b"]
    assert without("a", f"x{SECRET}y", "b") == ["a", f"x{REDACTED}y", "b"]
    assert without(1, None, b"x" + SECRET.encode()) == [1, None, f"x{REDACTED}"]
    for text in (f"x {SECRET}", f"{SECRET} y", f"x {SECRET} y"):
        assert without(SECRET, text, SECRET) == [REDACTED, text, REDACTED]
    assert without_secrets(["a", "b", "x yz"], lambda _: [(5, 8)]) == ["a", "b", "x yz"]
    assert without_secrets(["a", "b", "xy z"], lambda _: [(4, 8)]) == ["a", "b", REDACTED]
    assert without_secrets(["a", "bb", "cc"], lambda _: [(3, 4), (2, 3)]) == ["a", REDACTED, "cc"]
    assert without_secrets(["a", "bb", "cc"], lambda _: [(2, 7)]) == ["a", REDACTED, "cc"]
    assert without_secrets(["a", "bb", "cc"], lambda _: [(1, 3)]) == ["a", "bb", "cc"]


def test_items_are_searched_up_to_a_bound():
    """Three or more of them, the first 64; of a long secret nothing is left behind it, of a short one the rest is."""
    assert without(1, SECRET) == [1, SECRET]
    assert without(*"a" * 63, SECRET)[-1] == REDACTED
    assert without(*"a" * 64, SECRET)[-1] == SECRET
    for length, rest in ((99, "tail"), (100, "")):
        assert (
            without_secrets(["a", "b", "k" * length + "tail"], lambda _, n=length: [(4, 4 + n)])[2] == REDACTED + rest
        )
    middle = "x" * 60 + SECRET + "tail"
    assert without("a", "b", middle)[2] == middle.replace(SECRET, REDACTED)


def test_list_that_was_passed_is_not_changed():
    """It is the program's."""
    items = ["a", "b", SECRET]

    assert without_secrets(items, lambda line: [(4, len(line))]) == ["a", "b", REDACTED]
    assert items == ["a", "b", SECRET]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("['a', '-b', 'c']", ["a -b c"]), ("('a', '-b', 'c')", ["a -b c"]), ('["a", "-b", "c"]', ["a -b c"]),
        ("['a', 'b', 'c']", []), ("['A', 'NAME', 'c']", ["A NAME c"]), ("['sh', 'b', 'c']", ["sh b c"]),
        ("['/bin/sh', 'b', 'c']", ["/bin/sh b c"]), ("['a', '-b']", []), ("['a', '-b'] ['c', '-d', 'e']", ["c -d e"]),
        ("('a', '-b', 'c')['d', '-e', 'f']", ["a -b c", "d -e f"]),
        ("['a', '-b', 'c']['d', '-e', 'f']", ["a -b c", "d -e f"]),
        ("['a', '-b', 'c'['d', '-e', 'f']", ["a -b c", "d -e f"]),
        ("""["a", "-b", "['x', '-y', 'z']", "c"]""", ["a -b ['x',_'-y',_'z'] c"]),
        ("""["a", "-b", "['x', '-y']"] ['d', '-e', 'f']""", ["a -b ['x',_'-y']", "d -e f"]),
        ("['a', '-b', 7, None, 'c d']", ["a -b _ _ c_d"]), ("x ['a', '-b', 'c'", ["a -b c"]),
        ("['a', 'b', 'c', '-d']", ["a b c -d"]), ("['a', 'b', 'c'] -d '-e'", []),
        ("['a', '-b'" + ", 'c'" * 70 + "]", ["a -b" + " c" * 62]),
        ("['a', 'b'" + ", 'c'" * 800 + ", '-d']", ["a b" + " c" * 62]), ("['a', 'b'" + ", 'c'" * 900 + ", '-d']", []),
        (f"['a', '-b', '{'x' * 512}', 'd']", [f"a -b {'x' * 512} d"]), (f"['a', '-b', '{'x' * 513}', 'd']", []),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_which_lists_of_a_text_are_searched(text, lines):
    """Those with an option, a name or a command of a few, once, up to a bound."""
    seen: list[str] = []

    assert list(listed(text, lambda line: seen.append(line) or [], lambda shown: "name" in shown)) == []
    assert sorted(seen) == sorted(lines)


def test_what_a_list_shows_ends_with_it():
    """Or with the text."""
    shown: list[str] = []
    for text in ("['a', 'b', 'c'], NAME", "('a', 'b', 'c'], NAME), x", "x ['a', 'b', 'c"):
        list(listed(text, lambda _: [], shown.append))

    assert shown == ["'a', 'b', 'c'", "'a', 'b', 'c'], name", "'a', 'b', 'c"]


def test_places_of_secrets_in_a_list_that_a_text_shows():
    """Offsets in the text: also of several."""
    text = f"ran ['{SECRET}', '-b', 7, 'x{SECRET}'] so"
    spans = listed(text, lambda line: [match.span() for match in re.finditer(SECRET, line)], lambda _: None)

    assert [text[start:end] for start, end in spans] == [SECRET, SECRET]


@pytest.mark.parametrize(
    "text",
    [
        """KeyError: 'Authorization: Digest username="Mufasa", response="6629fae49393a053"'""",
        "KeyError: '" + json.dumps({"b": json.dumps({"client_secret": "6629fae49393a053", "n": 1})}) + "'",
        "Cookie: theme=dark; session=6629fae49393a053; csrf=6629fae49393a053",
        "password=6629fae49393a053 token=6629fae49393a053 and more",
    ],
)
def test_text_with_blanks_is_searched_by_itself(text):
    """A traceback's lines are a list, too: half of such a secret replaced would hide the rest from the search."""
    shown = bounded(["Traceback (most recent call last):", "  raise KeyError(text)", text])[2]
    assert shown == scrub(text)
    assert "6629fae49393a053" not in shown


@pytest.mark.parametrize(
    ("items", "at", "cleaned"),
    [
        (["docker", "run", "-e", "DB_PASSWORD=correct horse, 1 battery", "img"], 3, f"DB_PASSWORD={REDACTED}"),
        (["tool", "--password", 'S3cret, "of" it\\n', "-v"], 2, REDACTED),
        (["tool", "-m", "password=S3cret99 was wrong", "-v"], 2, f"password={REDACTED} was wrong"),
    ],
)
def test_value_of_an_option_is_all_of_its_item(items, at, cleaned):
    """With blanks, quotes and commas; a text among the arguments loses its secret only."""
    assert bounded(items) == [*items[:at], cleaned, *items[at + 1 :]]


def test_first_argument_has_none_before_it():
    """The last one is not taken for its name: what follows a token in it stays."""
    key = f"{'0a' * 16}-us12"
    assert scrub(f"['{key},rest', 'b', '--token']") == f"['{REDACTED}-us12,rest', 'b', '--token']"


def test_empty_argument_is_no_value():
    """The next one is taken for it: rather too much is redacted than too little."""
    assert scrub(f"['tool', '--token', '', '{SECRET}Zq7']") == f"['tool', '--token', '', '{REDACTED}']"


@pytest.mark.parametrize(
    "command",
    [
        ["htpasswd", "-b", "", "bob", SECRET], ["htpasswd", "-b", "users", "", SECRET], ["net", "user", "", SECRET],
        ["rabbitmqctl", "add_user", "", SECRET], ["mc", "alias", "set", "", "", "bob", SECRET],
        ["sqlplus", "", f"scott/{SECRET}@db"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("show", [repr, json.dumps, None], ids=["Python", "JSON", "a list"])
def test_empty_argument_has_its_place(command, show):
    """Of a command that takes a secret by its place, an empty argument before it hides it nowhere."""
    shown = bounded(command) if show is None else scrub(show(command))
    assert SECRET not in str(shown)
    assert str(shown).count(REDACTED) == 1
    assert command[0] in str(shown)
