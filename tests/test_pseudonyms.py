"""Numbered words: the same value the same word, what tells nothing stays, what tells something goes."""

from __future__ import annotations

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


def test_documents_are_replaced_in_every_corner():
    """Names of keys as well; the same value has the same word everywhere, and is counted."""
    words = made()
    found = words.value({"10.0.0.7": ["10.0.0.7", {"x": "somebody"}], "n": 5, "t": ("10.0.0.8",), "none": None})

    assert found == {"address-1": ["address-1", {"x": "user-1"}], "n": 5, "t": ["address-2"], "none": None}
    assert words.replaced == {"address": 3, "user": 1}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_any_text_is_taken(text):
    """Nothing raises, and what was known is gone from whatever it stood in."""
    words = made()
    shown = words.text(f"{text} somebody kitchen-pi {text}")

    assert "somebody" not in shown.replace(text, "")
    assert isinstance(shown, str)
