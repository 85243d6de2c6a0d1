"""Numbered words: the same value the same word, what tells nothing stays, what tells something goes."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.pseudonyms import Pseudonyms


def made() -> Pseudonyms:
    """Words that know a user, a machine and a folder."""
    words = Pseudonyms(["llm.chat", "app.work"], lambda found: short_id(found) if len(found) > 40 else None)
    words.know("user", "somebody")
    words.know("host", "kitchen-pi")
    words.know("path", "/media/somebody/My Stick/hearthnet")
    return words


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/home/somebody/x/telemetry.db cannot be read", "path-1/telemetry.db cannot be read"),
        ("at /media/somebody/My Stick/hearthnet/telemetry.db-wal", "at path-1/telemetry.db-wal"),
        ("no '/mnt/My Photos/cat.jpg' there", "no 'path-1' there"),
        ("http://somebody:pw@gpu.lan:11434/api?k=v refused", "http://host-1:11434/… refused"),
        ("192.168.1.7, fe80::1 and [fd00::7]:80", "address-1, address-2 and [address-3]:80"),
        ("de:ad:be:ef:00:01 is up", "address-1 is up"),
        ("kitchen-pi answered, kitchen-pi.local not", "host-1 answered, host-2 not"),
        ("ask somebody@owl.example", "ask user-2"),
        ("trace 01HXR4Z6W5S9E2JQ4Y0T7B3M1C and 01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "trace id-1 and id-1"),
        ("boot 71905541-68d4-4778-87be-bf82eb880129", "boot id-1"),
        ("parent 00f067aa0ba902b7", "parent id-1"),
        ("cloudflare.com and 1.1.1.1", "host-1 and address-1"),
        ("at /home/Jörg Müller/My Stuff/app.py:3, ~anna/x and ../anna/y", "at path-1:3, path-2 and path-3"),
        ("PATH=/home/anna/bin:/home/bob/bin x:/data/a", "PATH=path-1:path-2 path-3"),
        (r"C:\Users\Anna Meier\x.log: no", "path-1: no"),
        ("/usr/local/anna/x, /etc/ssl/anna.key and /metrics-of-anna", "path-1, path-2 and path-3"),
        ("GET /trace/01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "GET /trace/id-1"),
        ("fe80::1ff:fe23%eth0 at http://[fe80::2%25eth0]:7080/x", "address-1 at http://address-2:7080/…"),
        ("2001:DB8::7, 2001:db8:0::7 and 2001:db8:0:1:1:1:1:1:80", "address-1, address-1 and address-2"),
        ("AA-BB-CC-DD-EE-FF or aabb.ccdd.eeff", "address-1 or address-2"),
        ("ask Anna.Meier@Owl.Example or anna@kitchen", "ask user-1 or user-2"),
        ("GPU-Tower.LAN is gpu-tower.lan, KITCHEN-PI is kitchen-pi", "host-2 is host-2, host-1 is host-1"),
        ("json.lan and sqlite3.home", "host-1 and host-2"),
        ("HTTP://User:pw@Owl.Example/x", "HTTP://host-1/…"),
        ("01hxr4z6w5s9e2jq4y0t7b3m1c is 01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "id-1 is id-1"),
        ("DEADBEEF12345678", "id-1"),
        ("L2hvbWUvYW5uYS9kaWFyeQ== of diary-of-anna.txt", "code-1 of file-1"),
        ("pid 4711 of telemetry.4711.box, 4711 calls", "pid pid-1 of telemetry.pid-1.box, 4711 calls"),
    ],
)
def test_what_tells_something_goes(said, shown):
    """Of a path the names of our own files stay, of a URL scheme and port."""
    assert made().text(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "port 7080 on 127.0.0.1, [::1] and 0.0.0.0",
        "12:34:56 or 2026-05-26T08:14:22.281Z",
        "hearthnet.services.llm called llm.chat with sqlite3.OperationalError",
        "version 0.1.0 on Python 3.11.2, telemetry.db-wal, 2026-05-26.log, config.toml",
        "http://localhost:11434 and GET /trace/recent?n=5",
        "read /proc/locks and /usr/lib/python3.11/asyncio/runners.py",
        "/control, /trace/{trace_id} and /trace",
        "12 of 100 failed (12 %), 1.5 s; either/or",
        "group 239.255.42.42, 224.0.0.251",
    ],
)
def test_what_tells_nothing_stays(said):
    """Else nobody could find a fault in what is left."""
    assert made().text(said) == said


def test_key_in_full_and_in_short_is_one_peer():
    """The long form is in headers, the short one in logs; a signature is no peer."""
    words, one, two = made(), KeyPair.generate().node_id, KeyPair.generate().node_id

    assert words.text(f"{one} {short_id(two)} {short_id(one)} {two}") == "peer-1 peer-2 peer-1 peer-2"
    assert words.text("ed25519:" + "A" * 86) == "signature-1"
    assert words.text(short_id(one).lower()) == words.text(short_id(one).removeprefix("ed25519:")) == "peer-1"
    assert words.text(f"of {one.removeprefix('ed25519:')}") == "of code-1"


def test_names_that_are_nobodys_are_not_learnt():
    """A service often runs as user `hearthnet`: its name is in every module's."""
    words = Pseudonyms()
    for name in ("hearthnet", "root", "x", ""):
        words.know("user", name)

    assert words.text("hearthnet.services.llm as root at x") == "hearthnet.services.llm as root at x"


def test_hostile_text_takes_no_time():
    """No expression goes back and forth over what nearly fits it: 20 kB in far under a second, whatever they are."""
    started = process_time()
    for piece in ("a", "a.", "/a", "/a b c d e", "a ", "1:", "a@", "=a", "a-", "A1a", "://", "x://[", "kitchen-pi/"):
        made().text(piece * (20_000 // len(piece)))

    assert process_time() - started < 20


def test_documents_are_replaced_in_every_corner():
    """Names of keys as well; the same value has the same word everywhere, and is counted."""
    words = made()
    found = words.value({"10.0.0.7": ["10.0.0.7", {"x": "somebody"}], "n": 5, "t": ("10.0.0.8",), "none": None})

    assert found == {"address-1": ["address-1", {"x": "user-1"}], "n": 5, "t": ["address-2"], "none": None}
    assert words.replaced == {"address": 3, "user": 1}
    words.know("community", "data")
    assert words.value({"data_dir": "data", "enx001122334455": 1}) == {"data_dir": "community-1", "address-3": 1}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_any_text_is_taken(text):
    """Nothing raises, and what was known is gone from whatever it stood in."""
    words = made()
    shown = words.text(f"{text} somebody kitchen-pi {text}")

    assert "somebody" not in shown.replace(text, "")
    assert isinstance(shown, str)
