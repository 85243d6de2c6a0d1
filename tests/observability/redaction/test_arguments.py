"""Lists of a command's arguments: as fields of a record, and as a text shows them."""

from __future__ import annotations

import json
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
